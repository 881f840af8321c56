"""OVA: a tar archive of a descriptor, disks and perhaps a manifest. It is a package, no disk format.

Every disk in it is a file of its own, in a format of its own: a range of the package.

Reference: DMTF DSP0243, Open Virtualization Format Specification 2.1.1, section 5.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from imsd.contract import ByteRange, ImageRefused, InvalidRequest

from .ovf import (
    MAX_DESCRIPTOR_BYTES,
    MAX_MANIFEST_BYTES,
    REFUSALS,
    Checksum,
    Descriptor,
    elsewhere,
    parse_descriptor,
    parse_manifest,
)
from .source import ByteSource, PartSource
from .tar_members import TarMember, TarWalk, first_name, plain_name

NAME = "ova"
DESCRIPTOR_SUFFIX, MANIFEST_SUFFIX = ".ovf", ".mf"
# What the first file of a package may be. Only the descriptor should: the others are told apart from a disk,
# to be refused.
FIRST_SUFFIXES = (DESCRIPTOR_SUFFIX, MANIFEST_SUFFIX, ".cert", ".vmdk")


@dataclass(frozen=True, slots=True)
class PackagedDisk:
    """A file that holds a disk. ``wrapper``: what it is compressed with, as the descriptor says, or empty."""

    member: TarMember
    wrapper: str


@dataclass(frozen=True, slots=True)
class Package:
    """``disks`` in the order of the descriptor; ``checksums``: of members, empty without a manifest."""

    descriptor: Descriptor
    disks: Sequence[PackagedDisk]
    checksums: Sequence[tuple[TarMember, Checksum]]


def member_source(package: ByteSource, member: TarMember) -> ByteSource:
    """One member of a package, as a file."""
    return PartSource(package, member.offset, member.size_bytes)


def is_ova(head: bytes) -> bool:
    """Whether a file that starts with ``head`` is a package."""
    name = first_name(head)
    return name is not None and name.lower().endswith(FIRST_SUFFIXES)


def open_package(source: ByteSource) -> Package:
    """As `describe`, of a file whose bytes are at hand."""
    walk, members = TarWalk(source), []
    while member := walk.next():
        members.append(member)
    return describe(source, members)


def describe(source: ByteSource, members: Sequence[TarMember]) -> Package:
    """What the package of these ``members`` holds.

    Raises ImageRefused (IMAGE_*, FORMAT_UNSUPPORTED), `NeedBytes`.
    """
    if not members or not members[0].name.lower().endswith(DESCRIPTOR_SUFFIX):
        raise replace(
            REFUSALS, repair="pack it again, for example with `tar --format=ustar`, the descriptor first"
        ).malformed("its first member is no descriptor")
    by_name = {member.name: member for member in members}
    descriptor = parse_descriptor(_content(source, members[0], MAX_DESCRIPTOR_BYTES))
    disks = [
        PackagedDisk(_disk_member(by_name, disk.file_name, disk.size_bytes), disk.compression)
        for disk in descriptor.disks
    ]
    return Package(descriptor, disks, list(_checksums(source, members, by_name)))


def holds_disks(package: str) -> ImageRefused:
    """Why a package is not opened as a disk."""
    return ImageRefused(
        f"the file is an {package.upper()} package, which holds disks and is none",
        reason="FORMAT_UNSUPPORTED",
        hint="unpack it, for example with `tar -xf`, and send the disk image that is in it",
    )


def require_digest(member: TarMember, checksum: Checksum, actual: str) -> None:
    """Raises InvalidRequest (DIGEST_MISMATCH) unless ``actual`` is the digest that the manifest has."""
    if actual != checksum.digest:
        raise InvalidRequest(
            f"{member.name!r} has the {checksum.algorithm} {actual}, "
            f"the manifest of the package says {checksum.digest}",
            reason="DIGEST_MISMATCH",
            hint="the package was damaged or changed: fetch it again",
        )


def _disk_member(by_name: Mapping[str, TarMember], name: str, size_bytes: int | None) -> TarMember:
    member = by_name.get(plain_name(name))
    if member is None:
        raise elsewhere(name)
    if size_bytes not in (None, member.size_bytes):
        raise REFUSALS.malformed(
            f"its member {name!r} has {member.size_bytes} bytes, the descriptor says {size_bytes}"
        )
    return member


def _checksums(
    source: ByteSource, members: Sequence[TarMember], by_name: Mapping[str, TarMember]
) -> Iterator[tuple[TarMember, Checksum]]:
    manifest = next((member for member in members if member.name.lower().endswith(MANIFEST_SUFFIX)), None)
    if manifest is None:
        return
    for name, checksum in parse_manifest(_content(source, manifest, MAX_MANIFEST_BYTES)).items():
        member = by_name.get(plain_name(name))
        if member is None:
            raise REFUSALS.truncated(f"its manifest has {name[:255]!r}, which is not there")
        yield member, checksum


def _content(source: ByteSource, member: TarMember, limit: int) -> bytes:
    if member.size_bytes > limit:
        raise REFUSALS.malformed(f"its member {member.name!r} has more than {limit} bytes")
    source.require([ByteRange(member.offset, member.size_bytes)])
    return bytes(source.read(member.offset, member.size_bytes))
