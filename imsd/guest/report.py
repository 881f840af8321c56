"""What is known of a disk after its inspection, and its JSON.

Everything in a report comes from a guest, by way of a process that a guest may have taken over: every
text is cut and freed of control characters, every list is bounded, every number is checked, when it is
made and when it is read.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, TypeVar

from .codes import CODES, ReportFinding, finding

MAX_TEXT = 400
MAX_ITEMS = 128
MAX_JSON_BYTES = 512 << 10
_MAX_NUMBER = 1 << 63
T = TypeVar("T")


class Readiness(Enum):
    """Whether a driver is there when it is needed."""

    READY = "ready"
    MISSING = "missing"
    UNKNOWN = "unknown"


class BootMode(Enum):
    BIOS = "bios"
    UEFI = "uefi"


@dataclass(frozen=True, slots=True)
class PartitionSummary:
    """``number``: as the table counts, 0 for a logical volume or a disk without partitions."""

    number: int
    name: str
    size_bytes: int
    type: str
    file_system: str = ""
    label: str = ""
    used_as: str = ""  # where it is mounted, or what it is for; empty: not known


@dataclass(frozen=True, slots=True)
class GuestReport:
    """Empty texts and 0 mean not known.

    ``os_type``: Linux, Windows, Other. ``distribution``: the ID of os-release, or windows, freebsd.
    ``os_version``: as the image service names it. ``architecture``: x86 or arm. ``is_inspected``: the
    disk was looked at; ``is_verified``: the system was found in it. ``evidence``: what the answers rest
    on.
    """

    is_inspected: bool = False
    is_verified: bool = False
    os_type: str = ""
    distribution: str = ""
    name: str = ""
    version: str = ""
    os_version: str = ""
    bits: int = 0
    architecture: str = ""
    boot_modes: tuple[BootMode, ...] = ()
    default_boot_mode: BootMode | None = None
    has_cloud_init: bool = False
    has_guest_agent: bool = False
    virtio_disk: Readiness = Readiness.UNKNOWN
    virtio_network: Readiness = Readiness.UNKNOWN
    partitions: tuple[PartitionSummary, ...] = ()
    findings: tuple[ReportFinding, ...] = ()
    evidence: tuple[str, ...] = ()

    def to_json(self) -> str:
        content = asdict(bounded(self))
        return json.dumps(content, default=lambda value: value.value, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> GuestReport:
        """Raises ValueError for anything that is no report."""
        if len(text) > MAX_JSON_BYTES:
            raise ValueError(f"a report of {len(text)} bytes")
        try:
            content = _Fields(json.loads(text))
        except RecursionError as error:
            raise ValueError("a report nested too deep") from error
        return _read_report(content)


def not_inspected(reason: str) -> GuestReport:
    """The report on a disk that could not be looked at."""
    return GuestReport(findings=(finding("GUEST_NOT_INSPECTED", clean(f"not inspected: {reason}")),))


def clean(text: str, most: int = MAX_TEXT) -> str:
    """``text`` on one line, without control characters and lone surrogates, cut to ``most`` characters."""
    cut = text[: most * 4]
    spaced = " ".join(cut.split())
    # Nearly all texts are printable: to look at each letter takes a hundred times as long.
    kept = spaced if spaced.isprintable() else "".join(filter(_is_kept, spaced))
    return kept if len(kept) <= most else f"{kept[: most - 1]}…"


def _is_kept(character: str) -> bool:
    return unicodedata.category(character)[0] != "C"


def bounded(report: GuestReport) -> GuestReport:
    """``report`` with its texts cleaned and its lists cut."""
    return GuestReport(
        is_inspected=report.is_inspected,
        is_verified=report.is_verified,
        os_type=report.os_type,
        distribution=clean(report.distribution),
        name=clean(report.name),
        version=clean(report.version),
        os_version=clean(report.os_version),
        bits=report.bits,
        architecture=report.architecture,
        boot_modes=report.boot_modes,
        default_boot_mode=report.default_boot_mode,
        has_cloud_init=report.has_cloud_init,
        has_guest_agent=report.has_guest_agent,
        virtio_disk=report.virtio_disk,
        virtio_network=report.virtio_network,
        partitions=tuple(_cut_partition(each) for each in report.partitions[:MAX_ITEMS]),
        findings=tuple(
            ReportFinding(each.code, each.severity, clean(each.message), each.remedy)
            for each in report.findings[:MAX_ITEMS]
        ),
        evidence=tuple(clean(each) for each in report.evidence[:MAX_ITEMS]),
    )


def _cut_partition(each: PartitionSummary) -> PartitionSummary:
    texts = (clean(text) for text in (each.type, each.file_system, each.label, each.used_as))
    return PartitionSummary(each.number, clean(each.name), each.size_bytes, *texts)


@dataclass(frozen=True, slots=True)
class _Fields:
    """The fields of a JSON object, each of the type it must have. Raises ValueError."""

    content: Any

    def text(self, name: str) -> str:
        return clean(self._get(name, str))

    def flag(self, name: str) -> bool:
        return self._get(name, bool)

    def number(self, name: str, most: int = _MAX_NUMBER) -> int:
        value = self._get(name, int)
        if isinstance(value, bool) or not 0 <= value < most:
            raise ValueError(f"{name} out of range")
        return value

    def one_of(self, name: str, *allowed: str) -> str:
        value = self._get(name, str)
        if value not in allowed:
            raise ValueError(f"{name} is none of {allowed}")
        return value

    def many(self, name: str, read: Callable[[Any], T]) -> tuple[T, ...]:
        value = self._get(name, list)
        if len(value) > MAX_ITEMS:
            raise ValueError(f"{len(value)} items in {name}")
        return tuple(read(each) for each in value)

    def _get(self, name: str, kind: type[T]) -> T:
        if not isinstance(self.content, dict) or not isinstance(self.content.get(name), kind):
            raise ValueError(f"no {kind.__name__} {name}")
        value: T = self.content[name]
        return value


def _read_report(content: _Fields) -> GuestReport:
    default = content.content.get("default_boot_mode") if isinstance(content.content, dict) else None
    return GuestReport(
        is_inspected=content.flag("is_inspected"),
        is_verified=content.flag("is_verified"),
        os_type=content.one_of("os_type", "", "Linux", "Windows", "Other"),
        distribution=content.text("distribution"),
        name=content.text("name"),
        version=content.text("version"),
        os_version=content.text("os_version"),
        bits=content.number("bits", 129),
        architecture=content.one_of("architecture", "", "x86", "arm"),
        boot_modes=content.many("boot_modes", BootMode),
        default_boot_mode=None if default is None else BootMode(default),
        has_cloud_init=content.flag("has_cloud_init"),
        has_guest_agent=content.flag("has_guest_agent"),
        virtio_disk=Readiness(content.text("virtio_disk")),
        virtio_network=Readiness(content.text("virtio_network")),
        partitions=content.many("partitions", _read_partition),
        findings=content.many("findings", _read_finding),
        evidence=content.many("evidence", _read_text),
    )


def _read_partition(value: Any) -> PartitionSummary:
    content = _Fields(value)
    return PartitionSummary(
        number=content.number("number"),
        name=content.text("name"),
        size_bytes=content.number("size_bytes"),
        type=content.text("type"),
        file_system=content.text("file_system"),
        label=content.text("label"),
        used_as=content.text("used_as"),
    )


def _read_finding(value: Any) -> ReportFinding:
    """A known code with our own severity and remedy: nothing of a guest is ever read as advice."""
    content = _Fields(value)
    code = content.one_of("code", *CODES)
    return finding(code, content.text("message"))


def _read_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("no text")
    return clean(value)
