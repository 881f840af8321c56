"""The commands that `imsctl image attach` names fit the image."""

from __future__ import annotations

import shlex

import pytest
from imsctl.attached_use import uses

from imsd.v1 import guest_pb2, image_pb2

URI = "nbd+unix:///disk%201?socket=/run/imsd-nbd/a b/nbd/1.sock"


def image(**fields: int) -> image_pb2.Image:
    found = image_pb2.Image()
    for name, value in ({"kind": image_pb2.IMAGE_KIND_SYSTEM_DISK} | fields).items():
        setattr(found, name, value)
    return found


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "qemu-system-x86_64 -m 2G -nographic"),
        ({"boot_mode": guest_pb2.BOOT_MODE_BIOS}, "qemu-system-x86_64 -m 2G -nographic"),
        (
            {"boot_mode": guest_pb2.BOOT_MODE_UEFI},
            "qemu-system-x86_64 -m 2G -nographic -bios /usr/share/ovmf/OVMF.fd",
        ),
        (
            {"architecture": guest_pb2.ARCHITECTURE_ARM},
            "qemu-system-aarch64 -M virt -cpu max -m 2G -nographic"
            " -bios /usr/share/qemu-efi-aarch64/QEMU_EFI.fd",
        ),
    ],
)
def test_a_machine_starts_as_the_image_has_to(fields: dict[str, int], expected: str) -> None:
    told = uses(image(**fields), URI)
    assert list(told) == ["look", "overlay", "start"]
    assert told["start"] == f"{expected} -drive file=overlay.qcow2,format=qcow2,if=virtio"


def test_a_disk_of_data_starts_nothing() -> None:
    assert list(uses(image(kind=image_pb2.IMAGE_KIND_DATA_DISK), URI)) == ["look", "overlay"]


def test_a_disc_is_put_into_a_machine_as_it_is() -> None:
    told = uses(image(kind=image_pb2.IMAGE_KIND_ISO), URI)
    assert list(told) == ["look", "start"]
    assert shlex.split(told["start"])[-2:] == ["-cdrom", URI]


def test_an_address_stays_one_word_of_the_shell() -> None:
    told = uses(image(), URI)
    assert shlex.split(told["look"]) == ["qemu-img", "info", URI]
    assert shlex.split(told["overlay"])[-2:] == [URI, "overlay.qcow2"]


def test_nothing_is_told_of_an_image_that_has_no_address_here() -> None:
    assert uses(image(), "") == {}
