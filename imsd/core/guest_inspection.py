"""Looking inside an image, and what that means for what was declared of it.

What is found overrides what was declared, visibly: a finding says so. What was declared counts where nothing
is found. (`ims-contract`, the parsing of imported files.)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from imsd.chunks.decode_pool import DecodePool
from imsd.formats.reader import Finding
from imsd.formats.source import BlockSource
from imsd.guest.inspector import GuestInspector
from imsd.guest.naming import other_name
from imsd.guest.preflight import check_boot_mode
from imsd.guest.report import BootMode, GuestReport
from imsd.metadata.records import ImageKind, ImageRecord

from .downloads import open_image_reader
from .images import Images
from .os_identity import LINUX, WINDOWS, OsIdentity, identify_with
from .runtime import Runtime
from .sweeper import Sweeper

ARM, UEFI = "arm", "uefi"


@dataclass(frozen=True, slots=True)
class Declared:
    """What the maker of an image says of it; empty texts say nothing.

    ``described_os``: the system in the words of the package that the disk came in. Nobody declared it, so it
    contradicts nothing.
    """

    os_version: str
    architecture: str
    boot_mode: str
    described_os: str = ""
    kind: ImageKind = ImageKind.SYSTEM_DISK
    os_type: str = ""
    license_type: str = ""

    @classmethod
    def of_image(cls, image: ImageRecord, described_os: str) -> Declared:
        return cls(
            os_version=image.os_version,
            architecture=image.architecture,
            boot_mode=image.boot_mode,
            described_os=described_os,
            kind=image.kind,
            os_type=image.os_type,
            license_type=image.license_type,
        )


@dataclass(frozen=True, slots=True)
class System:
    """What an image is taken for. ``guest``: the report, as it is kept."""

    os_version: str
    architecture: str
    boot_mode: str
    identity: OsIdentity
    license_type: str
    guest: Mapping[str, object]
    findings: Sequence[Finding]


class GuestInspection:
    """Looks inside images that are stored."""

    def __init__(self, runtime: Runtime, sweeper: Sweeper, images: Images, inspector: GuestInspector) -> None:
        self._runtime = runtime
        self._sweeper = sweeper
        self._images = images
        self._inspector = inspector

    async def inspect(self, project_id: str, image_id: str) -> GuestReport:
        """Raises InvalidRequest, NotFound, FailedPrecondition, DataLoss, Unavailable."""
        image = await self._images.get_usable(project_id, image_id)
        async with open_image_reader(self._runtime, self._sweeper, image) as reader:
            report = await inspect_blocks(self._runtime.pool, self._inspector, reader)
        return _with_mode_checked(report, image.boot_mode)


async def inspect_blocks(pool: DecodePool, inspector: GuestInspector, blocks: BlockSource) -> GuestReport:
    """What is on a disk. A disk that cannot be read is a report that says so."""

    async def read(offset: int, length: int) -> bytes:
        return await pool.run(_read, blocks, offset, length)

    return await inspector.inspect(blocks.size_bytes, read)


def decide(declared: Declared, report: GuestReport) -> System:
    """What an image is taken for, by what was declared and what was found."""
    if declared.kind is ImageKind.DATA_DISK:
        return _of_data(declared, report)
    architecture = report.architecture or declared.architecture
    found_mode = report.default_boot_mode.value if report.default_boot_mode else ""
    boot_mode = UEFI if architecture == ARM else declared.boot_mode or found_mode
    os_version = _os_version(declared, report)
    found_type = report.os_type.lower() if report.is_verified else ""
    identity = identify_with(os_version, found_type or declared.os_type, report.bits)
    license_type = declared.license_type if identity.os_type == WINDOWS else ""
    return System(
        os_version=os_version,
        architecture=architecture,
        boot_mode=boot_mode,
        identity=identity,
        license_type=license_type,
        guest=json.loads(_with_mode_checked(report, boot_mode).to_json()),
        findings=list(_contradictions(declared, report, boot_mode, license_type)),
    )


def declared_system(image: ImageRecord) -> System:
    """What an image is taken for into which nobody looks: what was declared of it."""
    return replace(decide(Declared.of_image(image, ""), GuestReport()), guest={})


def _of_data(declared: Declared, report: GuestReport) -> System:
    """No server starts from a data disk: what was declared counts, whatever is on it (contract §3.2)."""
    return System(
        os_version=declared.os_version,
        architecture=declared.architecture,
        boot_mode=declared.boot_mode,
        identity=identify_with(declared.os_version, declared.os_type or LINUX),
        license_type="",
        guest=json.loads(report.to_json()),
        findings=(),
    )


def _os_version(declared: Declared, report: GuestReport) -> str:
    """Where nothing was found and nothing said: Other_Linux (64_bit) (seed, 6.2)."""
    if report.is_verified and report.os_version:
        return report.os_version
    best_guess = declared.os_version or report.os_version or declared.described_os
    if best_guess:
        return best_guess
    return other_name((declared.os_type or LINUX).capitalize(), 64)


def _with_mode_checked(report: GuestReport, boot_mode: str) -> GuestReport:
    """``report`` with what speaks against ``boot_mode``, which is empty when none is wanted."""
    if not boot_mode:
        return report
    return replace(report, findings=(*check_boot_mode(report, BootMode(boot_mode)), *report.findings))


def _contradictions(
    declared: Declared, report: GuestReport, boot_mode: str, license_type: str
) -> Iterator[Finding]:
    if declared.os_version and report.is_verified and declared.os_version != report.os_version:
        yield Finding(
            "OS_VERSION_OVERRIDDEN", f"declared {declared.os_version!r}, but {report.os_version!r} was found"
        )
    if declared.architecture and report.architecture not in ("", declared.architecture):
        yield Finding(
            "ARCHITECTURE_OVERRIDDEN",
            f"declared {declared.architecture}, but a system for {report.architecture} was found",
        )
    if declared.boot_mode not in ("", boot_mode):
        yield Finding(
            "BOOT_MODE_OVERRIDDEN",
            f"declared {declared.boot_mode}, but a server for arm has {boot_mode} only",
        )
    if declared.license_type != license_type:
        yield Finding("LICENSE_TYPE_DROPPED", "a type of licence was declared, but only Windows has one here")


def _read(blocks: BlockSource, offset: int, length: int) -> bytes:
    content = bytearray(length)
    blocks.read_into(offset, memoryview(content))
    return bytes(content)
