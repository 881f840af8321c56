"""The descriptor of a VMDK: text that says what kind of disk it is and which files make it up.

Only a descriptor inside the file it describes is accepted, with this file as its one extent. What names
another file is refused, whatever the name: the name in the text never leads anywhere.

Reference: VMware, Virtual Disk Format 5.0, "The Descriptor File".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from imsd.contract import ImageRefused

from .vmdk_layout import REFUSALS, Header, elsewhere, malformed, one_part, unsupported

MAX_TEXT_BYTES = 20 << 10

NO_PARENT = "ffffffff"
PARENT_KEYS = ("parentfilenamehint", "ddb.nativeparenthint", "ddb.nativeparentcid")
ENCRYPTION_PREFIX = "encryption."

SPARSE_TYPE, STREAM_TYPE = "monolithicsparse", "streamoptimized"
# Snapshots and disks of ESX in a format of their own.
ESX_TYPES = frozenset({"vmfssparse", "vmfseagerzeroedsparse", "sesparse"})
# Disks whose data is in other files or on devices.
EXTERNAL_TYPES = frozenset(
    {
        "custom",
        "fulldevice",
        "monolithicflat",
        "partitioneddevice",
        "twogbmaxextentflat",
        "twogbmaxextentsparse",
        "vmfs",
        "vmfseagerzeroedthick",
        "vmfspassthroughrawdevicemap",
        "vmfspreallocated",
        "vmfsraw",
        "vmfsrawdevicemap",
        "vmfsrdm",
        "vmfsrdmp",
        "vmfsthin",
    }
)

# key = value, the value in quotes or not.
_SETTING = re.compile(r'([\w.:-]+)\s*=\s*(?:"([^"]*)"|(\S.*?)?)', re.ASCII)
# access, sectors, type, then, for all but ZERO, the name of a file and an offset
_EXTENT = re.compile(r'(RW|RDONLY|NOACCESS)\s+([0-9]{1,19})\s+([A-Z]+)(?:\s+"([^"]*)"(?:\s+.*)?)?', re.ASCII)
_PRINTABLE = re.compile(r"[\t\r\n -~]*")


@dataclass(frozen=True, slots=True)
class _Extent:
    access: str
    sectors: int
    kind: str
    file: str


@dataclass(slots=True)
class _Text:
    """What the lines say; keys in small letters."""

    settings: dict[str, str] = field(default_factory=dict)
    extents: list[_Extent] = field(default_factory=list)


def check_embedded(content: bytes, header: Header) -> None:
    """Refuse a disk that is not wholly in this file.

    ``content``: the first bytes of the room for the descriptor, at least `MAX_TEXT_BYTES` if there are so
    many. Raises ImageRefused.
    """
    if not content.strip(b"\0"):
        raise one_part()
    text = content[:MAX_TEXT_BYTES].split(b"\0", 1)[0]
    if len(text) == MAX_TEXT_BYTES and content[MAX_TEXT_BYTES : MAX_TEXT_BYTES + 1] != b"\0":
        raise malformed(f"its descriptor has more than {MAX_TEXT_BYTES} bytes")
    found = _parsed(text)
    _check_parent(found)
    if any(key.startswith(ENCRYPTION_PREFIX) for key in found.settings):
        raise REFUSALS.encrypted()
    _check_type(found.settings.get("createtype", "").lower(), header)
    _check_extents(found, header)


def refuse_bare(content: bytes) -> ImageRefused:
    """Why a file that is only a descriptor is refused, from its first bytes."""
    try:
        _check_parent(_parsed(content[:MAX_TEXT_BYTES].split(b"\0", 1)[0]))
    except ImageRefused as refused:
        if refused.reason == "IMAGE_BACKING_FILE":
            return refused
    return elsewhere("it is only the descriptor of a disk")


def _parsed(content: bytes) -> _Text:
    """Raises ImageRefused (IMAGE_MALFORMED)."""
    if not content.isascii() or not _PRINTABLE.fullmatch(text := content.decode("ascii", "replace")):
        raise malformed("its descriptor holds other bytes than ASCII text")
    found = _Text()
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        _parse_line(found, number, line.strip())
    return found


def _parse_line(found: _Text, number: int, line: str) -> None:
    if not line or line.startswith("#"):
        return
    if extent := _EXTENT.fullmatch(line):
        access, sectors, kind, file = extent.groups()
        found.extents.append(_Extent(access, int(sectors), kind, file or ""))
        return
    setting = _SETTING.fullmatch(line)
    if setting is None:
        raise malformed(f"line {number} of its descriptor is neither a setting nor an extent")
    key = setting[1].lower()
    if key in found.settings:
        raise malformed(f"line {number} of its descriptor sets a second time what was set before")
    found.settings[key] = setting[2] or setting[3] or ""


def _check_parent(found: _Text) -> None:
    has_parent = found.settings.get("parentcid", NO_PARENT).lower() != NO_PARENT
    if has_parent or any(key in found.settings for key in PARENT_KEYS):
        raise ImageRefused(
            "the vmdk file is a snapshot or linked clone: it names a parent file",
            reason="IMAGE_BACKING_FILE",
            hint="merge the chain: delete the snapshots or make a full clone, and export that",
        )


def _check_type(kind: str, header: Header) -> None:
    if kind in EXTERNAL_TYPES:
        raise elsewhere(f"its descriptor says {kind}")
    if kind in ESX_TYPES:
        raise unsupported(f"VMDK of the kind {kind} cannot be read")
    if kind not in (SPARSE_TYPE, STREAM_TYPE):
        raise unsupported("the descriptor of the vmdk file names no kind of disk that is known")
    if header.is_compressed != (kind == STREAM_TYPE):
        raise malformed("its header and its descriptor disagree on whether it is stream-optimized")


def _check_extents(found: _Text, header: Header) -> None:
    if not found.extents:
        raise malformed("its descriptor names no extent")
    if len(found.extents) > 1:
        raise elsewhere(f"its descriptor names {len(found.extents)} extents")
    extent = found.extents[0]
    if extent.kind != "SPARSE":
        raise elsewhere(f"its extent is of the type {extent.kind}")
    if not extent.file or "/" in extent.file or "\\" in extent.file or ".." in extent.file:
        raise elsewhere("its extent is named with a path")
    if extent.access == "NOACCESS":
        raise malformed("its only extent is not accessible")
    if extent.sectors != header.capacity:
        raise malformed(f"its descriptor says {extent.sectors} sectors, its header {header.capacity}")
