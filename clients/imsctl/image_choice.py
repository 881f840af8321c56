"""Options that name attributes of images; wrong ones are usage errors (exit 2)."""

from __future__ import annotations

from collections.abc import Iterable

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


def support(marks: Iterable[str], option: str) -> image_pb2.ServerSupport:
    """Marks as ``kvm``, ``kvm-gpu-type=V100``. Raises typer.BadParameter."""
    found = image_pb2.ServerSupport()
    for mark in marks:
        name, separator, value = mark.partition("=")
        field = _MARKS.get(name.replace("-", "_"))
        if field is None:
            known = ", ".join(_MARKS)
            raise typer.BadParameter(f"{mark!r} is none of: {known}", param_hint=option)
        is_flag = field.startswith("has_")
        if is_flag == bool(separator and value):
            wanted = name if is_flag else f"{name}=TYPE"
            raise typer.BadParameter(f"{mark!r} is not {wanted}", param_hint=option)
        setattr(found, field, True if is_flag else value)
    return found


# kvm → has_kvm, kvm_gpu_type → kvm_gpu_type: as `image show -o json` calls them.
_MARKS = {field.name.removeprefix("has_"): field.name for field in image_pb2.ServerSupport.DESCRIPTOR.fields}
