"""Options that name attributes of images; wrong ones are usage errors (exit 2)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import typer

from imsd.v1 import guest_pb2, image_pb2

from . import choice


def kind(text: str, option: str = "--kind") -> image_pb2.ImageKind.ValueType:
    return image_pb2.ImageKind.ValueType(choice.choose(image_pb2.ImageKind, text, option))


def disk_format(text: str, option: str = "--format") -> image_pb2.DiskFormat.ValueType:
    return image_pb2.DiskFormat.ValueType(choice.choose(image_pb2.DiskFormat, text, option))


def status(text: str, option: str = "--status") -> image_pb2.ImageStatus.ValueType:
    return image_pb2.ImageStatus.ValueType(choice.choose(image_pb2.ImageStatus, text, option))


def server_kind(text: str, option: str = "--server-kind") -> image_pb2.ServerKind.ValueType:
    return image_pb2.ServerKind.ValueType(choice.choose(image_pb2.ServerKind, text, option))


def license_type(text: str, option: str = "--license") -> image_pb2.LicenseType.ValueType:
    return image_pb2.LicenseType.ValueType(choice.choose(image_pb2.LicenseType, text, option))


def os_type(text: str, option: str = "--os-type") -> guest_pb2.OsType.ValueType:
    return guest_pb2.OsType.ValueType(choice.choose(guest_pb2.OsType, text, option))


def architecture(text: str, option: str = "--arch") -> guest_pb2.Architecture.ValueType:
    return guest_pb2.Architecture.ValueType(choice.choose(guest_pb2.Architecture, text, option))


def boot_mode(text: str, option: str = "--boot-mode") -> guest_pb2.BootMode.ValueType:
    return guest_pb2.BootMode.ValueType(choice.choose(guest_pb2.BootMode, text, option))


def visibility(text: str, option: str = "--visibility") -> image_pb2.Visibility.ValueType:
    return image_pb2.Visibility.ValueType(choice.choose(image_pb2.Visibility, text, option))


def member_status(text: str, option: str = "--share-status") -> image_pb2.MemberStatus.ValueType:
    return image_pb2.MemberStatus.ValueType(choice.choose(image_pb2.MemberStatus, text, option))


def time_filter(text: str, option: str) -> image_pb2.TimeFilter:
    """``gte:2026-05-01``, ``lt:2026-05-01T12:00:00Z``: UTC unless it says another zone."""
    operator, _, when = text.partition(":")
    known = {
        name.removeprefix("OPERATOR_").lower(): number
        for name, number in image_pb2.TimeFilter.Operator.items()
        if number
    }
    if operator not in known:
        raise typer.BadParameter(
            f"{text!r} is not OP:TIME with one of: {', '.join(known)}", param_hint=option
        )
    try:
        time = datetime.fromisoformat(when)
    except ValueError:
        raise typer.BadParameter(f"{when!r} is no time as 2026-05-01T12:00:00Z", param_hint=option) from None
    found = image_pb2.TimeFilter(operator=image_pb2.TimeFilter.Operator.ValueType(known[operator]))
    found.time.FromDatetime(time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC))
    return found


def support(marks: Iterable[str], option: str) -> image_pb2.ServerSupport:
    """Marks as ``kvm``, ``kvm-gpu-type=V100``. Raises typer.BadParameter."""
    found = image_pb2.ServerSupport()
    for mark in marks:
        name, separator, value = mark.partition("=")
        field = mark_field(name, option)
        is_flag = field.startswith("has_")
        if is_flag == bool(separator and value):
            wanted = name if is_flag else f"{name}=TYPE"
            raise typer.BadParameter(f"{mark!r} is not {wanted}", param_hint=option)
        setattr(found, field, True if is_flag else value)
    return found


def mark_field(name: str, option: str) -> str:
    """The field of a mark: ``kvm`` is has_kvm. Raises typer.BadParameter."""
    field = _MARKS.get(name.replace("-", "_"))
    if field is None:
        raise typer.BadParameter(f"{name!r} is none of: {', '.join(_MARKS)}", param_hint=option)
    return field


# kvm → has_kvm, kvm_gpu_type → kvm_gpu_type: as `image show -o json` calls them.
_MARKS = {field.name.removeprefix("has_"): field.name for field in image_pb2.ServerSupport.DESCRIPTOR.fields}
