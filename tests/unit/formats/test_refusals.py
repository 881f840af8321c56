"""What all formats refuse in the same words; no hint sends to a program that does not know the format."""

from __future__ import annotations

from dataclasses import replace

import pytest

from imsd.contract import ImageRefused
from imsd.formats.detect import open_image
from imsd.formats.ovf import MAX_DISKS, parse_descriptor
from imsd.formats.refusals import Refusals
from imsd.formats.source import MemorySource
from tests.packages import descriptor
from tests.unit.formats import (
    crafted_qcow,
    crafted_qcow2,
    crafted_vdi,
    crafted_vhd,
    crafted_vmdk,
    crafted_zvhd,
)
from tests.unit.formats.disk_files import LIMIT

DIFFERENCING = crafted_vhd.Footer(kind=crafted_vhd.DIFFERENCING)
ENCRYPTED_ZVHD2 = replace(crafted_zvhd.Fields(), compression=0x81)
NEWER_ZVHD = replace(crafted_zvhd.ZVHD_HEADER, format_version=9)
ENCRYPTED_VMDK = crafted_vmdk.description(more='encryption.keySafe = "vmware:key/list"\n')
QCOW_OF_MANY_CLUSTERS = crafted_qcow.Fields(size=1 << 45, cluster_bits=9, l2_bits=6)


def file_refusal(file: bytes, name: str) -> ImageRefused:
    with pytest.raises(ImageRefused) as refused:
        open_image(MemorySource(file), name, LIMIT)
    return refused.value


@pytest.mark.parametrize(
    ("reason", "name", "file"),
    [
        ("IMAGE_ENCRYPTED", "zvhd2", ENCRYPTED_ZVHD2.page() + bytes(4096)),
        ("FORMAT_UNSUPPORTED", "zvhd", NEWER_ZVHD.page() + bytes(4096)),
        ("IMAGE_ENCRYPTED", "vmdk", crafted_vmdk.sparse({}, about=ENCRYPTED_VMDK)),
        ("IMAGE_BACKING_FILE", "vhd", crafted_vhd.dynamic({}, DIFFERENCING)),
        ("IMAGE_BACKING_FILE", "vdi", crafted_vdi.crafted([], fields=crafted_vdi.Fields(kind=4))),
    ],
)
def test_nobody_is_sent_to_qemu_with_what_it_cannot_read(reason: str, name: str, file: bytes) -> None:
    error = file_refusal(file, name)
    assert error.reason == reason
    assert error.hint
    assert "qemu" not in error.hint


@pytest.mark.parametrize(
    ("reason", "name", "file"),
    [
        ("IMAGE_ENCRYPTED", "qcow2", crafted_qcow2.crafted([], fields=crafted_qcow2.Fields(crypt_method=2))),
        (
            "IMAGE_BACKING_FILE",
            "qcow2",
            crafted_qcow2.crafted([], fields=crafted_qcow2.Fields(backing_bytes=9)),
        ),
        ("IMAGE_TOO_LARGE", "qcow", crafted_qcow.crafted([], fields=QCOW_OF_MANY_CLUSTERS)),
    ],
)
def test_qemu_helps_with_its_own_formats(reason: str, name: str, file: bytes) -> None:
    error = file_refusal(file, name)
    assert error.reason == reason
    assert "`qemu-img convert -O qcow2`" in error.hint


@pytest.mark.parametrize(
    ("reason", "content", "said"),
    [
        ("IMAGE_EMPTY", descriptor({}), "no disk"),
        ("IMAGE_TOO_LARGE", descriptor(dict.fromkeys(map(str, range(MAX_DISKS + 1)), 1)), "64 disks"),
        ("FORMAT_UNSUPPORTED", descriptor({"a": 1}, compression="bzip2"), "'bzip2'"),
    ],
)
def test_a_package_is_refused_as_a_package(reason: str, content: bytes, said: str) -> None:
    with pytest.raises(ImageRefused) as refused:
        parse_descriptor(content)
    assert refused.value.reason == reason
    assert said in refused.value.message
    assert "byte" not in refused.value.message
    assert "qemu" not in refused.value.hint


@pytest.mark.parametrize("value", [4, 8, 16])
def test_powers_of_two_in_range_are_taken(value: int) -> None:
    Refusals("x", "repair it", "convert it").check_power_of_two(value, 4, 16, "its size")


@pytest.mark.parametrize("value", [0, 1, 2, 3, 5, 12, 15, 17, 32, -4, 1 << 63])
def test_other_numbers_than_powers_of_two_in_range_are_refused(value: int) -> None:
    with pytest.raises(ImageRefused) as refused:
        Refusals("x", "repair it", "convert it").check_power_of_two(value, 4, 16, "its size")
    assert (refused.value.reason, refused.value.hint) == ("IMAGE_MALFORMED", "repair it")
    assert refused.value.message.endswith(f"its size is {value}, not a power of two from 4 to 16")
