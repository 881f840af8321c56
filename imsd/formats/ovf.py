"""The descriptor and the manifest of an OVA package: which disks there are, and for which system.

Only what imsd needs is read. A file that a descriptor names is looked up among the members of the package,
and nowhere else.

Reference: DMTF DSP0243, Open Virtualization Format Specification 2.1.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from imsd.contract import ImageRefused

from .refusals import Refusals
from .xml_elements import Element, elements

MAX_DESCRIPTOR_BYTES = MAX_MANIFEST_BYTES = 1 << 20
MAX_DISKS = 64
MAX_TEXT_CHARACTERS = 255

GZIP = "gzip"
REFUSALS = Refusals(
    "OVA",
    repair="export the virtual machine again, as OVF 1.x or 2.x",
    convert="export the virtual machine again, with each of its disks as one file",
)

_MANIFEST_LINE = re.compile(r"\s*(SHA1|SHA256|SHA512)\s*\(([^\r\n]{1,512})\)\s*=\s*([0-9A-Fa-f]{40,128})\s*")
_DIGEST_DIGITS = {"SHA1": 40, "SHA256": 64, "SHA512": 128}


@dataclass(frozen=True, slots=True)
class OvfDisk:
    """A disk with a file. ``size_bytes`` of the file, None when not said; ``compression`` empty or `GZIP`."""

    file_name: str
    size_bytes: int | None
    compression: str


@dataclass(frozen=True, slots=True)
class Descriptor:
    """``system``: the operating system in the words of the exporter, or empty; ``firmware`` as it stands."""

    system: str
    firmware: str
    disks: tuple[OvfDisk, ...]


@dataclass(frozen=True, slots=True)
class Checksum:
    """``algorithm`` as `hashlib` names it; ``digest``: hex digits, small."""

    algorithm: str
    digest: str


@dataclass(slots=True)
class _Found:
    files: dict[str, OvfDisk] = field(default_factory=dict)
    references: dict[str, None] = field(default_factory=dict)  # of disks to files, in the order of the disks
    system: str = ""
    firmware: str = ""


def parse_descriptor(content: bytes) -> Descriptor:
    """Raises ImageRefused (IMAGE_*, FORMAT_UNSUPPORTED)."""
    if len(content) > MAX_DESCRIPTOR_BYTES:
        raise REFUSALS.malformed(f"its descriptor has more than {MAX_DESCRIPTOR_BYTES} bytes")
    found = _Found()
    for element in elements(_decoded(content), REFUSALS):
        if element.path[0] != "Envelope":
            raise REFUSALS.malformed("its descriptor is not an OVF envelope")
        if take := _TAKEN.get(element.name):
            take(found, element)
    return Descriptor(found.system, found.firmware, tuple(_disks(found)))


def parse_manifest(content: bytes) -> Mapping[str, Checksum]:
    """The checksums of members by their names. Raises ImageRefused (IMAGE_MALFORMED)."""
    if len(content) > MAX_MANIFEST_BYTES:
        raise REFUSALS.malformed(f"its manifest has more than {MAX_MANIFEST_BYTES} bytes")
    checksums: dict[str, Checksum] = {}
    for number, line in enumerate(_decoded(content).splitlines(), 1):
        if not line.strip():
            continue
        found = _MANIFEST_LINE.fullmatch(line)
        if found is None or len(found[3]) != _DIGEST_DIGITS[found[1]] or found[2] in checksums:
            raise REFUSALS.malformed(f"line {number} of its manifest is not the checksum of a file")
        checksums[found[2]] = Checksum(found[1].lower(), found[3].lower())
    return checksums


def elsewhere(file_name: str) -> ImageRefused:
    return ImageRefused(
        f"the OVA package has no member {file_name[:MAX_TEXT_CHARACTERS]!r}, where a disk of it is",
        reason="IMAGE_EXTERNAL_DATA_FILE",
        hint="export the virtual machine again, with its disks in the package",
    )


def _decoded(content: bytes) -> str:
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        raise REFUSALS.malformed("its descriptor or manifest is not text") from None


def _take_file(found: _Found, element: Element) -> None:
    if element.path[-2:-1] != ("References",):
        return
    said = element.attributes
    identity, name, compression = said.get("id", ""), said.get("href", ""), said.get("compression", "")
    if not identity or not name or identity in found.files:
        raise REFUSALS.malformed("a file of its descriptor has no name, or that of another one")
    if compression not in ("", "identity", GZIP):
        raise REFUSALS.unsupported(f"compression {compression[:32]!r}")
    if "chunkSize" in said:
        raise REFUSALS.unsupported("a disk that is cut into several files")
    size = said.get("size")
    if size is not None and not re.fullmatch(r"[0-9]{1,19}", size):
        raise REFUSALS.malformed("the size of a file in its descriptor is no number")
    found.files[identity] = OvfDisk(name, int(size) if size else None, GZIP if compression == GZIP else "")


def _take_disk(found: _Found, element: Element) -> None:
    if element.path[-2:-1] != ("DiskSection",):
        return
    if "parentRef" in element.attributes:
        raise REFUSALS.needs_another_file("one of its disks has a parent")
    reference = element.attributes.get("fileRef")
    if not reference:  # an empty disk, which the host makes
        return
    found.references[reference] = None
    if len(found.references) > MAX_DISKS:
        raise ImageRefused(
            f"the OVA package has more than {MAX_DISKS} disks",
            reason="IMAGE_TOO_LARGE",
            hint="unpack it, for example with `tar -xf`, and send its disks one by one",
        )


def _take_system(found: _Found, element: Element) -> None:
    if element.path[-2:-1] == ("OperatingSystemSection",):
        found.system = found.system or element.text[:MAX_TEXT_CHARACTERS]


def _take_config(found: _Found, element: Element) -> None:
    if element.attributes.get("key") == "firmware":
        found.firmware = found.firmware or element.attributes.get("value", "")[:MAX_TEXT_CHARACTERS]


_TAKEN = {
    "File": _take_file,
    "Disk": _take_disk,
    "Description": _take_system,
    "Config": _take_config,
}


def _disks(found: _Found) -> list[OvfDisk]:
    if not found.references:
        raise ImageRefused(
            "the OVA package has no disk with a file",
            reason="IMAGE_EMPTY",
            hint="export the virtual machine again, with its disks in the package",
        )
    if unknown := [each for each in found.references if each not in found.files]:
        raise elsewhere(unknown[0])
    return [found.files[each] for each in found.references]
