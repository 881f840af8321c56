"""What is found inside disks and the catalogue of systems, as messages: for the server and for imsctl."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from imsd.guest import catalogue
from imsd.guest.catalogue.listing import ListedSystem
from imsd.guest.codes import ReportFinding, Severity
from imsd.guest.report import BootMode, GuestReport, PartitionSummary, Readiness
from imsd.v1 import guest_pb2 as pb

OS_TYPES: Mapping[str, pb.OsType.ValueType] = {
    "Linux": pb.OS_TYPE_LINUX,
    "Windows": pb.OS_TYPE_WINDOWS,
    "Other": pb.OS_TYPE_OTHER,
}
ARCHITECTURES: Mapping[str, pb.Architecture.ValueType] = {
    "x86": pb.ARCHITECTURE_X86,
    "arm": pb.ARCHITECTURE_ARM,
}
BOOT_MODES: Mapping[str, pb.BootMode.ValueType] = {
    BootMode.BIOS.value: pb.BOOT_MODE_BIOS,
    BootMode.UEFI.value: pb.BOOT_MODE_UEFI,
}
READINESS: Mapping[Readiness, pb.Readiness.ValueType] = {
    Readiness.READY: pb.READINESS_READY,
    Readiness.MISSING: pb.READINESS_MISSING,
    Readiness.UNKNOWN: pb.READINESS_UNSPECIFIED,
}
SEVERITIES: Mapping[Severity, pb.GuestFinding.Severity.ValueType] = {
    Severity.ADVICE: pb.GuestFinding.SEVERITY_ADVICE,
    Severity.MAY_BLOCK_BOOT: pb.GuestFinding.SEVERITY_MAY_BLOCK_BOOT,
    Severity.BLOCKS_BOOT: pb.GuestFinding.SEVERITY_BLOCKS_BOOT,
}


def architecture_to_pb(name: str) -> pb.Architecture.ValueType:
    return ARCHITECTURES.get(name, pb.ARCHITECTURE_UNSPECIFIED)


def boot_mode_to_pb(name: str) -> pb.BootMode.ValueType:
    return BOOT_MODES.get(name, pb.BOOT_MODE_UNSPECIFIED)


def kept_guest_to_pb(kept: Mapping[str, object]) -> pb.GuestReport:
    """A report as an image keeps it."""
    return guest_to_pb(GuestReport.from_json(json.dumps(kept)))


def guest_to_pb(report: GuestReport) -> pb.GuestReport:
    support = catalogue.supported(report.os_version, architecture=report.architecture)
    return pb.GuestReport(
        is_inspected=report.is_inspected,
        is_verified=report.is_verified,
        os_type=OS_TYPES.get(report.os_type, pb.OS_TYPE_UNSPECIFIED),
        distribution=report.distribution,
        name=report.name,
        version=report.version,
        os_version=report.os_version,
        bits=report.bits,
        architecture=architecture_to_pb(report.architecture),
        boot_modes=[BOOT_MODES[mode.value] for mode in report.boot_modes],
        default_boot_mode=boot_mode_to_pb(report.default_boot_mode.value if report.default_boot_mode else ""),
        has_cloud_init=report.has_cloud_init,
        has_guest_agent=report.has_guest_agent,
        virtio_disk=READINESS[report.virtio_disk],
        virtio_network=READINESS[report.virtio_network],
        partitions=[_partition_to_pb(part) for part in report.partitions],
        findings=[_finding_to_pb(found) for found in report.findings],
        evidence=report.evidence,
        supported_server_types=sorted({name for each in support for name in each.server_types}),
        is_uefi_supported=catalogue.uefi_supported(report.os_version, report.architecture),
    )


def _partition_to_pb(part: PartitionSummary) -> pb.GuestPartition:
    return pb.GuestPartition(
        number=part.number,
        name=part.name,
        size_bytes=part.size_bytes,
        type=part.type,
        file_system=part.file_system,
        label=part.label,
        used_as=part.used_as,
    )


def _finding_to_pb(found: ReportFinding) -> pb.GuestFinding:
    return pb.GuestFinding(
        code=found.code, severity=SEVERITIES[found.severity], message=found.message, remedy=found.remedy
    )


def os_versions_to_pb(systems: Iterable[ListedSystem]) -> list[pb.OsVersion]:
    return [
        pb.OsVersion(
            platform=system.platform,
            os_version=system.os_version,
            os_type=OS_TYPES[system.os_type],
            bits=system.bits,
            architecture=ARCHITECTURES[system.architecture],
            server_types=system.server_types,
            is_uefi_supported=system.is_uefi_supported,
            tables=system.tables,
        )
        for system in systems
    ]
