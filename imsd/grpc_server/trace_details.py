"""What of a request stands in its trace: the fields that are named here, and nothing else.

A test demands that each field of each call that changes something is either named in `TRACED` or `WITHHELD`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, Final
from urllib.parse import urlsplit

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from imsd.core.trace_text import MAX_DETAIL, MAX_DETAILS

# In this order, should there be too many.
TRACED: Final = (
    "name",
    "update_mask",
    "image_ids",
    "member_project_ids",
    "status",
    "upload_id",
    "url",
    "local_path",
    "object",
    "target",
    "store",
    "tags",
    "keys",
    "is_lenient",
    "is_protected",
    "is_final",
    "is_withdrawn",
    "force",
    "replacement_image_id",
    "visibility",
    "product_code",
    "quota",
    "is_default",
    "principal_kind",
    "role",
    "user_id",
    "lifetime_seconds",
    "add_user_ids",
    "remove_user_ids",
    "key",
    "key_service",
    "pending_days",
    "file_name",
    "size_bytes",
    "offset",
    "expected_sha256",
    "bytes_per_second",
    "is_anew",
    "dead_percent",
    "is_dry_run",
    "digest",
    "disk_format",
    "kind",
    "is_fast",
    "family",
    "os_version",
    "os_type",
    "architecture",
    "boot_mode",
    "server_kind",
    "license_type",
    "enterprise_project_id",
    "min_disk_gb",
    "min_ram_mb",
    "max_ram_mb",
    "has_nic_multiqueue",
    "shutdown_timeout_seconds",
)

# Why a field is left out.
WITHHELD: Final = {
    "description": "free text of 1024 characters, which may say anything",
    "properties": "free values, which may be secrets; an update names the keys",
    "server_support": "a message of many marks",
    "image": "new values of an update: those of traced fields in its mask are told",
    "file_token": "a secret: whoever has it reads the file that was handed over",
    "data": "bytes of the file",
    "zero_length": "bytes of the file",
    "known": "bytes of the file",
    "flush": "says nothing",
    "commit": "says of what came that it is all; how that ends is the outcome",
    "header": "the call is admitted with it, and its fields are told",
    "validate_only": "a request that is only validated leaves no trace",
    "etag": "says nothing to anybody else",
    "fingerprint": "says nothing to anybody else",
}

# What a trace has fields of its own for.
OF_THE_TRACE: Final = ("project_id", "request_id")

_Plan = tuple[FieldDescriptor, ...]


def details_of(request: Message, id_field: str) -> dict[str, str]:
    """What was asked for, as it was asked: fields that the request leaves out are not there."""
    found = {}
    for field in _plan(request.DESCRIPTOR, id_field):
        value = getattr(request, field.name)
        if field.message_type is not None and not field.is_repeated:  # of which only a mask is traced
            value = value.paths
        if value:
            found[field.name] = _text(field, value)
    return {**found, **_updated(request)} if "update_mask" in found else found


def _updated(request: Any) -> dict[str, str]:
    """The new values that a mask names, empty ones too."""
    fields = request.image.DESCRIPTOR.fields_by_name
    paths = dict.fromkeys(request.update_mask.paths[: 4 * MAX_DETAILS])
    return {
        path: _text(fields[path], getattr(request.image, path))
        for path in paths
        if path in fields and path in TRACED
    }


@cache
def _plan(descriptor: Descriptor, id_field: str) -> _Plan:
    fields = descriptor.fields_by_name
    return tuple(fields[name] for name in TRACED if name in fields and name != id_field)


def _text(field: FieldDescriptor, value: Any) -> str:
    if field.name == "url":
        return _without_secrets(value)
    if field.enum_type is not None and not field.is_repeated:
        return _enum_text(field.enum_type, value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value)
    return _joined(_pairs(value) if isinstance(value, Mapping) else map(_item, value))


def _item(value: Any) -> str:
    """A text of a list, or a tag."""
    return value if isinstance(value, str) else f"{value.key}={value.value}"


def _pairs(value: Mapping[str, str]) -> Iterator[str]:
    return (f"{key}={value[key]}" for key in sorted(value))


def _joined(items: Iterable[str]) -> str:
    """With commas between them, and no more of them than can be told."""
    parts, length = [], 0
    for item in items:
        parts.append(item)
        length += len(item) + 1
        if length > MAX_DETAIL + 1:
            break
    return ",".join(parts)


def _enum_text(enum: EnumDescriptor, number: int) -> str:
    """In lower case and without its prefix; a number that is not known, as such."""
    if number not in enum.values_by_number:
        return str(number)
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return enum.values_by_number[number].name.removeprefix(prefix).lower()


def _without_secrets(url: str) -> str:
    """Scheme, host and path: a user's name or a query may hold a password or a signature."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "(not a URL)"
    if not parts.scheme or not host:
        return "(not a URL)"
    if ":" in host:
        host = f"[{host}]"
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path}"
