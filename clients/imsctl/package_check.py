"""Whether the members of a local package are what its manifest says."""

from __future__ import annotations

import hashlib

from imsd.formats.ova import DESCRIPTOR_SUFFIX, Package, member_source, require_digest
from imsd.formats.source import ByteSource
from imsd.formats.tar_members import TarMember

from .local_image import READ_BYTES, OnPhase


def check_descriptor(file: ByteSource, package: Package, on_phase: OnPhase) -> None:
    """Raises InvalidRequest (DIGEST_MISMATCH), and what ``on_phase`` raises."""
    for member, _ in package.checksums:
        if member.name.lower().endswith(DESCRIPTOR_SUFFIX):
            check_member(file, package, member, on_phase)


def check_member(file: ByteSource, package: Package, member: TarMember, on_phase: OnPhase) -> None:
    """A member that the manifest leaves out holds. Raises as `check_descriptor`."""
    for described, checksum in package.checksums:
        if described == member:
            hasher = hashlib.new(checksum.algorithm, usedforsecurity=False)
            content = member_source(file, member)
            for start in range(0, content.size_bytes, READ_BYTES):
                on_phase("check", start, content.size_bytes)
                hasher.update(content.read(start, min(READ_BYTES, content.size_bytes - start)))
            require_digest(member, checksum, hasher.hexdigest())
