"""Names of modules in an initramfs, however it is packed; and the evidence that saves reading it."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from imsd.guest import initramfs
from imsd.guest.initramfs import InitramfsUnknown, is_initramfs, modules
from imsd.guest.kernels import Kernel, initramfs_of, kernels
from imsd.guest.readiness import linux_disk_drivers, linux_network_driver
from imsd.guest.report import Readiness
from imsd.guest.unpacking import OUTPUT_BYTES, Unpacking
from imsd.guest.volume import BytesVolume, GuestUnreadable
from tests.unit.guest.crafted_guest import KERNEL, MODULES, cpio
from tests.unit.guest.memory_tree import Link, Paths, tree

NAMES = [
    "usr/lib/modules/6.1/kernel/fs/ext4.ko",
    "lib/virtio-blk.ko.xz",
    "etc/x.ko.txt",
    "a/virtio_net.ko.zst",
]
FOUND = ["ext4", "virtio_blk", "virtio_net"]
MICROCODE = cpio(["kernel/x86/microcode/GenuineIntel.bin"], b"m" * 5000) + bytes(3072)
IMAGE = f"/boot/initrd.img-{KERNEL}"
TREE: Paths = {
    f"/boot/vmlinuz-{KERNEL}": b"MZ",
    IMAGE: cpio([]),
    f"{MODULES}/modules.dep": "a/virtio_blk.ko:\na/virtio_scsi.ko.gz: b.ko\n",
}


def unchanged(content: bytes) -> bytes:
    return content


PACKERS: list[Callable[[bytes], bytes]] = [
    unchanged,
    gzip.compress,
    lzma.compress,
    lambda content: lzma.compress(content, lzma.FORMAT_ALONE),
    bz2.compress,
    zstandard.compress,
]


@pytest.mark.parametrize("pack", PACKERS)
@pytest.mark.parametrize("early", [b"", MICROCODE, MICROCODE * 3])
def test_modules_are_found_in_every_packing_and_after_microcode(
    pack: Callable[[bytes], bytes], early: bytes
) -> None:
    content = early + pack(cpio(NAMES))
    assert is_initramfs(content[:6])
    assert list(modules(BytesVolume(content))) == FOUND


def test_modules_in_several_plain_archives_are_found() -> None:
    assert list(modules(BytesVolume(cpio(NAMES[:1]) + bytes(508) + cpio(NAMES[1:])))) == FOUND


@pytest.mark.parametrize("pack", PACKERS)
@pytest.mark.parametrize("then", PACKERS)
def test_modules_in_what_follows_a_compressed_archive_are_found(
    pack: Callable[[bytes], bytes], then: Callable[[bytes], bytes]
) -> None:
    content = MICROCODE + pack(cpio(NAMES[:1]) + bytes(700)) + bytes(20) + then(cpio(NAMES[1:]))
    assert list(modules(BytesVolume(content))) == FOUND


@pytest.mark.parametrize("pack", PACKERS)
def test_modules_in_several_archives_of_one_stream_are_found(pack: Callable[[bytes], bytes]) -> None:
    content = pack(MICROCODE + cpio(NAMES[:2]) + bytes(9000) + cpio(NAMES[2:]) + bytes(50_000))
    assert list(modules(BytesVolume(content))) == FOUND


@pytest.mark.parametrize("pack", PACKERS)
def test_what_follows_and_is_no_archive_is_unreadable(pack: Callable[[bytes], bytes]) -> None:
    with pytest.raises(GuestUnreadable):
        list(modules(BytesVolume(pack(cpio(NAMES)) + b"hello, world")))


def test_no_more_is_unpacked_than_is_asked_for() -> None:
    content = gzip.compress(cpio(["a/virtio_blk.ko", *NAMES]))[:-20]
    assert next(modules(BytesVolume(content))) == "virtio_blk"
    with pytest.raises(GuestUnreadable):
        list(modules(BytesVolume(content)))


@pytest.mark.parametrize("magic", [b"\x02\x21\x4c\x18", b"\x89LZO"])
def test_what_the_standard_library_cannot_unpack_is_not_known(magic: bytes) -> None:
    assert is_initramfs(magic + b"12")
    with pytest.raises(InitramfsUnknown):
        list(modules(BytesVolume(magic + bytes(100))))


@pytest.mark.parametrize(
    "content",
    [
        b"hello, world",
        cpio(NAMES)[:-200],
        cpio(NAMES).replace(b"070701", b"0707xx"),
        cpio(NAMES)[:54] + b"zzzzzzzz" + cpio(NAMES)[62:],
        cpio(NAMES)[:94] + b"FFFFFFFF" + cpio(NAMES)[102:],
        cpio(NAMES)[:94] + b"00000000" + cpio(NAMES)[102:],
        cpio(NAMES)[:54] + b"FFFFFFF0" + cpio(NAMES)[62:],
        gzip.compress(cpio(NAMES))[:-30],
        b"\x1f\x8b" + bytes(100),
        b"\xfd7zXZ\0" + b"\xff" * 100,
        b"\x28\xb5\x2f\xfd" + b"\xff" * 100,
        cpio([]) * 40,
    ],
)
def test_damage_is_unreadable(content: bytes) -> None:
    with pytest.raises(GuestUnreadable):
        list(modules(BytesVolume(content)))


@pytest.mark.parametrize("pack", PACKERS[1:])
def test_a_stream_unpacks_in_bounded_pieces(pack: Callable[[bytes], bytes]) -> None:
    volume = BytesVolume(pack(bytes(20 << 20)))
    names = {PACKERS[1]: "gzip", PACKERS[4]: "bzip2", PACKERS[5]: "zstd"}
    stream = Unpacking(volume, 0, names.get(pack, "xz"))
    lengths = [len(piece) for piece in stream]
    assert sum(lengths) == 20 << 20
    assert max(lengths) <= OUTPUT_BYTES
    assert stream.position == volume.size_bytes


def test_an_initramfs_that_unpacks_for_ever_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initramfs, "MAX_UNPACKED_BYTES", 4 << 20)
    content = zstandard.compress(cpio(["a.bin"], bytes(8 << 20)) + cpio(NAMES))
    with pytest.raises(InitramfsUnknown, match="unpacks to more than 4 MiB"):
        list(modules(BytesVolume(content)))


def test_an_initramfs_of_too_many_files_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initramfs, "MAX_ENTRIES", 10)
    with pytest.raises(InitramfsUnknown, match="more than 10 files"):
        list(modules(BytesVolume(cpio(["a"] * 20))))


def test_a_huge_initramfs_is_not_read() -> None:
    class Huge(BytesVolume):
        size_bytes = (48 << 20) + 1

        def __init__(self) -> None:
            """Has no content: reading fails."""

    with pytest.raises(InitramfsUnknown, match="of 48 MiB"):
        list(modules(Huge()))


@settings(max_examples=150)
@given(st.data())
def test_any_damage_is_names_or_unreadable(data: st.DataObject) -> None:
    pack = data.draw(st.sampled_from(PACKERS))
    content = bytearray(MICROCODE[:500] + pack(cpio(NAMES)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = list(modules(BytesVolume(bytes(content))))
    except GuestUnreadable:
        found = []
    assert all(isinstance(name, str) for name in found)


EVIDENCE: list[tuple[Paths, Readiness, str]] = [
    (
        {f"{MODULES}/modules.builtin": "kernel/drivers/block/virtio_blk.ko\n"},
        Readiness.READY,
        "modules.builtin",
    ),
    ({f"/boot/config-{KERNEL}": "CONFIG_X=y\nCONFIG_VIRTIO_BLK=y\n"}, Readiness.READY, "config-"),
    ({f"{MODULES}/modules.dep": "kernel/drivers/ata/ahci.ko:\n"}, Readiness.MISSING, "no module"),
    ({f"{MODULES}/modules.dep": "my_virtio_blk.ko:\nvirtio_blk.kox:\n"}, Readiness.MISSING, "no module"),
    (
        {"/usr/sbin/update-initramfs": b"", "/etc/initramfs-tools/initramfs.conf": "# x\nMODULES=most\n"},
        Readiness.READY,
        "MODULES=most",
    ),
    (
        {
            "/usr/sbin/update-initramfs": b"",
            "/etc/initramfs-tools/initramfs.conf": "MODULES=most\n",
            "/etc/initramfs-tools/conf.d/driver-policy": "MODULES=dep\n",
        },
        Readiness.MISSING,
        IMAGE,
    ),
    (
        {"/usr/sbin/update-initramfs": b"", "/etc/initramfs-tools/modules": "# virtio_scsi\nvirtio-blk\n"},
        Readiness.READY,
        "virtio_blk in /etc/initramfs-tools/modules",
    ),
    (
        {"/usr/bin/dracut": b"", "/usr/lib/dracut/dracut.conf.d/02-generic-image.conf": 'hostonly="no"\n'},
        Readiness.READY,
        "hostonly",
    ),
    (
        {
            "/usr/bin/dracut": b"",
            "/usr/lib/dracut/dracut.conf.d/01-dist.conf": 'hostonly="no"\n',
            "/etc/dracut.conf.d/x.conf": "hostonly=yes\n",
        },
        Readiness.MISSING,
        IMAGE,
    ),
    (
        {
            "/sbin/dracut": b"",
            "/etc/dracut.conf": 'add_drivers+=" virtio_blk "\n',
            "/etc/dracut.conf.d/y.conf": 'add_drivers+=" xfs "\n',
        },
        Readiness.READY,
        "virtio_blk in dracut.conf",
    ),
    (
        {"/usr/bin/mkinitcpio": b"", "/etc/mkinitcpio.conf": "MODULES=(ext4 virtio_blk)\n"},
        Readiness.READY,
        "mkinitcpio",
    ),
    (
        {"/sbin/mkinitrd": b"", "/etc/sysconfig/kernel": 'INITRD_MODULES="ata_piix virtio_scsi"\n'},
        Readiness.READY,
        "INITRD_MODULES",
    ),
    (
        {
            "/usr/sbin/update-initramfs": b"",
            "/usr/bin/dracut": b"",
            "/etc/initramfs-tools/initramfs.conf": "MODULES=most\n",
        },
        Readiness.MISSING,
        IMAGE,
    ),
    ({IMAGE: cpio(["a/virtio_scsi.ko"])}, Readiness.READY, f"virtio_scsi is in {IMAGE}"),
    ({IMAGE: b"\x89LZO\0\0\0\0"}, Readiness.UNKNOWN, "lzo"),
    ({IMAGE: b"#!/bin/sh"}, Readiness.UNKNOWN, "no initramfs that is known"),
    ({IMAGE: b""}, Readiness.MISSING, "no initramfs for"),
]


@pytest.mark.parametrize(("changes", "readiness", "evidence"), EVIDENCE)
def test_the_answer_rests_on_the_cheapest_evidence(
    changes: Paths, readiness: Readiness, evidence: str
) -> None:
    guest = tree({**TREE, **changes})
    state = linux_disk_drivers(guest, kernels(guest)[0])
    assert state.readiness is readiness
    assert evidence in state.evidence


@pytest.mark.parametrize(
    ("changes", "readiness"),
    [
        ({f"{MODULES}/modules.builtin": "kernel/drivers/net/virtio_net.ko\n"}, Readiness.READY),
        ({f"{MODULES}/modules.dep": "kernel/drivers/net/virtio_net.ko.zst:\n"}, Readiness.READY),
        ({}, Readiness.MISSING),
        ({f"{MODULES}/modules.dep": None}, Readiness.UNKNOWN),
    ],
)
def test_the_network_driver_is_built_in_or_a_module(changes: Paths, readiness: Readiness) -> None:
    guest = tree({**TREE, **changes})
    assert linux_network_driver(guest, Kernel(KERNEL, "")).readiness is readiness


def test_the_newest_kernel_comes_first_and_rescue_kernels_never() -> None:
    guest = tree({
        "/boot/vmlinuz-6.1.0-9-amd64": b"",
        "/boot/vmlinuz-6.1.0-18-amd64": b"",
        "/boot/vmlinuz-0-rescue-0123": b"",
        "/boot/vmlinuz-5.10.0": b"",
        "/boot/System.map-7.0": b"",
        "/lib/modules/6.2.1/vmlinuz": b"",
        "/lib/modules/6.9.9/kernel": None,
    })  # fmt: skip
    assert [kernel.version for kernel in kernels(guest)] == [
        "6.2.1",
        "6.1.0-18-amd64",
        "6.1.0-9-amd64",
        "5.10.0",
    ]


@pytest.mark.parametrize(
    ("paths", "path"),
    [
        ({"/boot/vmlinuz-5.14.0": b"", "/boot/initramfs-5.14.0.img": b"x"}, "/boot/initramfs-5.14.0.img"),
        ({"/boot/vmlinuz-3.0-x": b"", "/boot/initrd-3.0-x": b"x"}, "/boot/initrd-3.0-x"),
        ({"/boot/vmlinuz-linux": b"", "/boot/initramfs-linux.img": b"x"}, "/boot/initramfs-linux.img"),
        ({"/boot/vmlinuz-virt": b"", "/boot/initramfs-virt": b"x"}, "/boot/initramfs-virt"),
        ({"/vmlinuz": Link("boot/k"), "/boot/k": b"", "/initrd.img": b"x"}, "/initrd.img"),
        ({"/boot/vmlinuz-5.14.0": b""}, None),
    ],
)  # fmt: skip
def test_an_initramfs_is_found_under_the_names_of_distributions(paths: Paths, path: str | None) -> None:
    guest = tree(paths)
    found = initramfs_of(guest, kernels(guest)[0])
    assert (found[0] if found else None) == path


def test_modules_of_a_kernel_without_a_number_are_the_newest() -> None:
    guest = tree({
        "/boot/vmlinuz-linux": b"",
        "/boot/initramfs-linux.img": cpio(["virtio_blk.ko"]),
        "/usr/lib/modules/6.9.1/modules.builtin": "a/virtio_net.ko\n",
        "/usr/lib/modules/6.10.2/modules.builtin": "a/virtio_blk.ko\n",
    })  # fmt: skip
    assert "6.10.2" in linux_disk_drivers(guest, kernels(guest)[0]).evidence
