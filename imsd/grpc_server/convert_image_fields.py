"""Images as messages, and the enums and marks of an image both ways."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from imsd.core.attribute_checks import SUPPORT_DEVICES, SUPPORT_FLAGS
from imsd.guest_messages import (
    ARCHITECTURES,
    BOOT_MODES,
    OS_TYPES,
    kept_guest_to_pb,
)
from imsd.metadata.records import (
    ImageKind,
    ImageRecord,
    ImageStatus,
    MemberStatus,
    OriginKind,
    ServerKind,
    Visibility,
)
from imsd.v1 import image_pb2

from . import convert

# What the columns say → the numbers of the wire. Kinds of images, for example: "iso" → IMAGE_KIND_ISO.
KINDS: Mapping[str, Any] = {kind: image_pb2.ImageKind.Value(f"IMAGE_KIND_{kind.name}") for kind in ImageKind}
STATUSES: Mapping[str, Any] = {
    status: image_pb2.ImageStatus.Value(f"IMAGE_STATUS_{status.name}") for status in ImageStatus
}
VISIBILITIES: Mapping[str, Any] = {
    one: image_pb2.Visibility.Value(f"VISIBILITY_{one.name}") for one in Visibility
}
SERVER_KINDS: Mapping[str, Any] = {
    kind: image_pb2.ServerKind.Value(f"SERVER_KIND_{kind.name}") for kind in ServerKind
}
ORIGIN_KINDS: Mapping[str, Any] = {
    kind: image_pb2.OriginKind.Value(f"ORIGIN_KIND_{kind.name}") for kind in OriginKind
}
MEMBER_STATUSES: Mapping[str, Any] = {
    status: image_pb2.MemberStatus.Value(f"MEMBER_STATUS_{status.name}") for status in MemberStatus
}
LICENSE_TYPES: Mapping[str, Any] = {
    "platform": image_pb2.LICENSE_TYPE_PLATFORM,
    "byol": image_pb2.LICENSE_TYPE_BYOL,
}
DISK_FORMATS: Mapping[str, Any] = {
    name.removeprefix("DISK_FORMAT_").lower(): number for name, number in image_pb2.DiskFormat.items()
}
OS_TYPE_NUMBERS: Mapping[str, Any] = {name.lower(): number for name, number in OS_TYPES.items()}


def image_to_pb(record: ImageRecord) -> image_pb2.Image:
    image = _completed(image_pb2.Image(**_fields(record)), record)
    if record.guest:
        image.guest.CopyFrom(kept_guest_to_pb(record.guest))
    return image


def image_list_to_pb(records: Iterable[ImageRecord], next_page_token: str) -> image_pb2.ListImagesResponse:
    """A page of images without what was found inside, which is long; each is made in its place."""
    response = image_pb2.ListImagesResponse(next_page_token=next_page_token)
    add = response.images.add
    for record in records:
        _completed(add(**_fields(record)), record)
    return response


def _fields(record: ImageRecord) -> dict[str, Any]:
    """What is set of the fields that hold numbers and texts, and the marks of support, which always are."""
    said = vars(record)
    fields = {name: value for name, column in _AS_THEY_ARE if (value := said[column])}
    fields |= {name: numbers[value] for name, numbers in _NUMBERS if (value := said[name])}
    if record.key_id:
        fields["is_encrypted"] = True
    return {**fields, "etag": str(record.version), "server_support": record.server_support}


def _completed(image: image_pb2.Image, record: ImageRecord) -> image_pb2.Image:
    """``image`` with its maps and times, which take half the time when they are filled in place."""
    image.tags.update(record.tags)
    image.properties.update(record.properties)
    said = vars(record)
    for name in _TIMES:
        if value := said[name]:
            convert.set_time(getattr(image, name), value)
    if record.deprecated_at:
        convert.set_time(image.deprecation.deprecated_at, record.deprecated_at)
        image.deprecation.replacement_image_id = record.replacement_image_id
    return image


# Most fields of most images are unset, and to leave those out halves what a page takes.
_OTHER_NAMES = {
    "virtual_size_bytes": "virtual_size",
    "data_size_bytes": "data_size",
    "stored_size_bytes": "stored_size",
    "new_size_bytes": "new_size",
}
_TIMES = ("created_at", "updated_at", "active_at", "deleted_at", "purge_at")
_NUMBERS: Sequence[tuple[str, Mapping[str, Any]]] = (
    ("status", STATUSES),
    ("disk_format", DISK_FORMATS),
    ("architecture", ARCHITECTURES),
    ("boot_mode", BOOT_MODES),
    ("kind", KINDS),
    ("visibility", VISIBILITIES),
    ("server_kind", SERVER_KINDS),
    ("os_type", OS_TYPE_NUMBERS),
    ("origin_kind", ORIGIN_KINDS),
    ("license_type", LICENSE_TYPES),
    ("member_status", MEMBER_STATUSES),
)
_MADE_APART = {"etag", "is_encrypted", "server_support", "deprecation", "guest", "tags", "properties"}
_MADE_APART |= {*_TIMES, *(name for name, _ in _NUMBERS)}
_AS_THEY_ARE: Sequence[tuple[str, str]] = tuple(
    (name, _OTHER_NAMES.get(name, name))
    for name in image_pb2.Image.DESCRIPTOR.fields_by_name
    if name not in _MADE_APART
)


def server_support_from_pb(message: image_pb2.ServerSupport) -> dict[str, object]:
    """Every mark, set or not."""
    return {name: getattr(message, name) for name in (*SUPPORT_FLAGS, *SUPPORT_DEVICES)}


def kind_from_pb(value: int) -> str:
    """Empty when unspecified, as of all of these. Raises InvalidRequest."""
    return convert.known_name(KINDS, value, "kind")


def server_kind_from_pb(value: int) -> str:
    """Raises InvalidRequest."""
    return convert.known_name(SERVER_KINDS, value, "server_kind")


def os_type_from_pb(value: int) -> str:
    """Raises InvalidRequest."""
    return convert.known_name(OS_TYPE_NUMBERS, value, "os_type")


def license_type_from_pb(value: int) -> str:
    """Raises InvalidRequest."""
    return convert.known_name(LICENSE_TYPES, value, "license_type")


def visibility_from_pb(value: int) -> str:
    """Raises InvalidRequest."""
    return convert.known_name(VISIBILITIES, value, "visibility")


def architecture_from_pb(value: int) -> str:
    """Raises InvalidRequest."""
    return convert.known_name(ARCHITECTURES, value, "architecture")


def boot_mode_from_pb(value: int) -> str:
    """Raises InvalidRequest."""
    return convert.known_name(BOOT_MODES, value, "boot_mode")
