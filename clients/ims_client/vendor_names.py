"""The names of the hosted service for what imsd says in types of its own, for gateways and migrations.

`ATTRIBUTES` has every attribute of its image object (its contract, §5); one for which no field stands says
why not. `to_vendor` writes an image as that service does, `from_vendor` reads one, or the part of one that a
request names. Its types of jobs and its members are in `vendor_jobs`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from imsd.v1 import guest_pb2
from imsd.v1 import image_pb2 as pb

from . import vendor_values as values

# What every image of that service says here; it is the MD5 of nothing, and not looked at (§5.1).
NO_CHECKSUM = "d41d8cd98f00b204e9800998ecf8427e"

DISK_FORMATS = ("iso", "qcow2", "raw", "vhd", "zvhd", "zvhd2")

Write = Callable[[pb.Image], Any]
# Takes the image to fill and the value; raises ValueError.
Read = Callable[[pb.Image, Any], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """``fields``: of `imsd.v1.Image`, empty when it has none for it; ``write`` gives None for an absent one.

    ``read`` is None for what follows from other attributes, or is nobody's to set. ``note``: why there is no
    field, or what is not the same.
    """

    name: str
    fields: tuple[str, ...] = ()
    write: Write = lambda _: None
    read: Read | None = None
    note: str = ""


def _field(
    name: str, field: str, write: Callable[[Any], Any] = lambda value: value, read: Any = values.read_text
) -> Attribute:
    def set_field(image: pb.Image, value: Any) -> None:
        setattr(image, field, read(value))

    return Attribute(
        name=name, fields=(field,), write=lambda image: write(getattr(image, field)), read=set_field
    )


def _flag(name: str, field: str) -> Attribute:
    return _field(name, field, values.flag, values.read_flag)


def _enum(name: str, field: str, enum: Any, words: Mapping[str, str] | None = None) -> Attribute:
    """``words``: names of the enum here → there; without it the names are the same in lower case."""
    prefix = enum.Name(0).removesuffix("UNSPECIFIED")
    named = words or {key.removeprefix(prefix): key.removeprefix(prefix).lower() for key in enum.keys()[1:]}
    numbers = {there: enum.Value(prefix + here) for here, there in named.items()}
    texts = {number: there for there, number in numbers.items()}
    by_case = {there.casefold(): number for there, number in numbers.items()}

    def read(value: Any) -> int:
        number: int | None = by_case.get(values.read_text(value).casefold())
        if number is None:
            raise ValueError(f"{str(value)[:40]!r} is none of: {', '.join(numbers)}")
        return number

    return _field(name, field, texts.get, read)


def _time(name: str, field: str) -> Attribute:
    def read(image: pb.Image, value: Any) -> None:
        getattr(image, field).CopyFrom(values.read_time(value))

    return Attribute(
        name=name, fields=(field,), write=lambda image: values.time(getattr(image, field)), read=read
    )


def _mark(name: str, mark: str) -> Attribute:
    """A mark of `ServerSupport`: a flag, or a text that is absent when empty."""
    is_flag = mark.startswith("has_")

    def write(image: pb.Image) -> Any:
        value = getattr(image.server_support, mark)
        return values.flag(value) if is_flag else value or None

    def read(image: pb.Image, value: Any) -> None:
        setattr(image.server_support, mark, values.read_flag(value) if is_flag else values.read_text(value))

    return Attribute(name=name, fields=(f"server_support.{mark}",), write=write, read=read)


def _says(name: str, write: Write, *fields: str, note: str = "") -> Attribute:
    """Follows from other attributes, or is always the same."""
    return Attribute(name=name, fields=fields, write=write, note=note)


def _missing(name: str, why: str) -> Attribute:
    return Attribute(name=name, note=why)


def _image_type(image: pb.Image) -> str:
    if image.is_published:
        return "market"
    return {pb.VISIBILITY_PUBLIC: "gold", pb.VISIBILITY_SHARED: "shared"}.get(image.visibility, "private")


ENV_TYPES = {
    "FusionCompute": (pb.IMAGE_KIND_SYSTEM_DISK, pb.SERVER_KIND_VIRTUAL),
    "Ironic": (pb.IMAGE_KIND_SYSTEM_DISK, pb.SERVER_KIND_BARE_METAL),
    "DataImage": (pb.IMAGE_KIND_DATA_DISK, pb.SERVER_KIND_VIRTUAL),
    "IsoImage": (pb.IMAGE_KIND_ISO, pb.SERVER_KIND_VIRTUAL),
}


def _env_type(image: pb.Image) -> str:
    is_bare_metal = image.server_kind == pb.SERVER_KIND_BARE_METAL
    if image.kind == pb.IMAGE_KIND_SYSTEM_DISK:
        return "Ironic" if is_bare_metal else "FusionCompute"
    return next((name for name, (kind, _) in ENV_TYPES.items() if kind == image.kind), "FusionCompute")


def _read_env_type(image: pb.Image, value: Any) -> None:
    if value not in ENV_TYPES:
        raise ValueError(f"{str(value)[:40]!r} is none of: {', '.join(ENV_TYPES)}")
    image.kind, image.server_kind = ENV_TYPES[value]


def _disk_format(image: pb.Image) -> str | None:
    """That service keeps what came in another format as ZVHD2."""
    name = pb.DiskFormat.Name(image.disk_format).removeprefix("DISK_FORMAT_").lower()
    return None if not image.disk_format else name if name in DISK_FORMATS else "zvhd2"


def _read_disk_format(image: pb.Image, value: Any) -> None:
    if value not in DISK_FORMATS:
        raise ValueError(f"{str(value)[:40]!r} is none of: {', '.join(DISK_FORMATS)}")
    image.disk_format = pb.DiskFormat.Value(f"DISK_FORMAT_{value.upper()}")


def _image_size(image: pb.Image) -> str:
    """Bytes, more than 0 once there is a disk."""
    return str(max(1, image.stored_size_bytes) if image.digest else 0)


def _data_origin(image: pb.Image) -> str:
    is_file = image.origin_kind not in (pb.ORIGIN_KIND_UNSPECIFIED, pb.ORIGIN_KIND_IMAGE)
    return f"file,{image.origin}" if is_file and image.visibility != pb.VISIBILITY_PUBLIC else ""


def _root_origin(image: pb.Image) -> str | None:
    return "file" if image.origin_kind != pb.ORIGIN_KIND_UNSPECIFIED else None


def _may_be_published(image: pb.Image) -> bool:
    is_private = image.visibility == pb.VISIBILITY_PRIVATE
    return is_private and image.kind == pb.IMAGE_KIND_SYSTEM_DISK and not image.is_published


def _read_tags(image: pb.Image, value: Any) -> None:
    image.tags.clear()
    image.tags.update(values.read_tags(value))


def _read_agents(image: pb.Image, value: Any) -> None:
    image.agents[:] = [name for name in values.read_text(value).split(",") if name]


def _read_published(image: pb.Image, value: Any) -> None:
    image.is_published = values.read_text(value) == "market"


def _read_protected(image: pb.Image, value: Any) -> None:
    image.is_protected = values.read_flag(value)


def _read_origin_image(image: pb.Image, value: Any) -> None:
    image.origin_image_id = values.read_text(value)


def _read_arm(image: pb.Image, value: Any) -> None:
    if values.read_flag(value):
        image.architecture = guest_pb2.ARCHITECTURE_ARM


def _agents(image: pb.Image) -> str | None:
    return ",".join(image.agents) or None


_IS_MADE_BY_A_LATER_PART = "servers and backups are not part of this service yet"
_OLD = "only in answers of calls that are deprecated there"

ATTRIBUTES: tuple[Attribute, ...] = (
    # §5.1
    _field("id", "id"),
    _field("name", "name"),
    _enum("status", "status", pb.ImageStatus),
    _enum("visibility", "visibility", pb.Visibility),
    _field("owner", "project_id"),
    Attribute(
        name="protected",
        fields=("is_protected",),
        write=lambda image: image.is_protected or image.visibility == pb.VISIBILITY_PUBLIC,
        read=_read_protected,
        note="a public image cannot be deleted, so it is one",
    ),
    _says("container_format", lambda _: "bare"),
    Attribute(name="disk_format", fields=("disk_format",), write=_disk_format, read=_read_disk_format),
    _field("min_disk", "min_disk_gb", int, values.read_number),
    _field("min_ram", "min_ram_mb", int, values.read_number),
    _field("max_ram", "max_ram_mb", str, values.read_number),
    _says("size", lambda _: 0, note="unused there: the size is __image_size"),
    _says("virtual_size", lambda _: None, note="unused there, and the one attribute that is null"),
    _says("checksum", lambda image: NO_CHECKSUM if image.digest else None, note="unused there"),
    Attribute(name="tags", fields=("tags",), write=lambda image: values.tags(image.tags), read=_read_tags),
    _time("created_at", "created_at"),
    _time("updated_at", "updated_at"),
    _time("active_at", "active_at"),
    _missing("deleted", _OLD),
    _missing("deleted_at", _OLD),
    _says("self", lambda image: f"/v2/images/{image.id}", "id"),
    _says("file", lambda image: f"/v2/images/{image.id}/file", "id"),
    _says("schema", lambda _: "/v2/schemas/image"),
    Attribute(name="virtual_env_type", fields=("kind", "server_kind"), write=_env_type, read=_read_env_type),
    _field("enterprise_project_id", "enterprise_project_id", lambda value: value or None),
    _field("_sys_enterprise_project_id", "enterprise_project_id", lambda value: value or None),
    _enum("hw_firmware_type", "boot_mode", guest_pb2.BootMode),
    _flag("hw_vif_multiqueue_enabled", "has_nic_multiqueue"),
    _field(
        "os_shutdown_timeout", "shutdown_timeout_seconds", lambda value: str(value or 60), values.read_number
    ),
    # §5.2
    Attribute(
        name="__imagetype",
        fields=("visibility", "is_published"),
        write=_image_type,
        read=_read_published,
        note="who sees it is read from visibility",
    ),
    _says("__isregistered", lambda _: "true"),
    _says("__image_source_type", lambda _: "uds"),
    _says("__image_size", _image_size, "stored_size_bytes"),
    _missing("__image_location", "where bytes lie is nobody's business"),
    _says("__image_displayname", lambda image: image.name, "name"),
    _field("__description", "description"),
    _enum(
        "__os_type",
        "os_type",
        guest_pb2.OsType,
        {"LINUX": "Linux", "WINDOWS": "Windows", "OTHER": "Other"},
    ),
    _field("__os_bit", "os_bits", lambda value: str(value) if value else None, values.read_number),
    _field("__os_version", "os_version", values.os_version, values.read_os_version),
    _field("__platform", "platform", values.platform, values.read_platform),
    Attribute(
        name="__originalimagename",
        fields=("origin_image_id",),
        write=lambda image: "" if image.visibility == pb.VISIBILITY_PUBLIC else image.origin_image_id,
        read=_read_origin_image,
    ),
    _says("__data_origin", _data_origin, "origin_kind", "origin"),
    _says("__root_origin", _root_origin, "origin_kind"),
    _missing("__backup_id", _IS_MADE_BY_A_LATER_PART),
    _missing("__whole_image", _IS_MADE_BY_A_LATER_PART),
    _says("__lazyloading", lambda image: "true" if image.digest else None, "digest"),
    _missing("__sequence_num", _IS_MADE_BY_A_LATER_PART),
    _field("__system__cmkid", "key_id", lambda value: value or None),
    _flag("__is_config_init", "is_guest_configured"),
    _field("__productcode", "product_code", lambda value: value or None),
    _missing("__account_code", "nothing is charged here"),
    _missing("__is_offshelved", "an image that is taken out of the marketplace is no longer published"),
    _says("__system_support_market", _may_be_published, "kind", "visibility", "is_published"),
    _field("__os_feature_list", "os_features", lambda value: value or None),
    Attribute(name="__support_agent_list", fields=("agents",), write=_agents, read=_read_agents),
    # Inverted there: "true" says that it is not supported.
    _flag("__support_fc_inject", "has_no_credential_injection"),
    Attribute(
        name="__support_arm",
        fields=("architecture",),
        write=lambda image: values.flag(image.architecture == guest_pb2.ARCHITECTURE_ARM),
        read=_read_arm,
        note="without it nothing is said of the processor",
    ),
    *(
        _mark(f"__support_{name}", mark)
        for name, mark in (
            ("kvm", "has_kvm"),
            ("xen", "has_xen"),
            ("largememory", "has_large_memory"),
            ("diskintensive", "has_disk_intensive"),
            ("highperformance", "has_high_performance"),
            ("xen_gpu_type", "xen_gpu_type"),
            ("kvm_gpu_type", "kvm_gpu_type"),
            ("xen_hana", "has_xen_hana"),
            ("kvm_infiniband", "has_kvm_infiniband"),
            ("amd", "has_amd"),
            ("kvm_hi1822_hisriov", "has_sriov"),
            ("kvm_hi1822_hivirtionet", "has_virtio_net"),
            ("kvm_fpga_type", "kvm_fpga_type"),
            ("nvme_highio", "has_nvme_high_io"),
            ("gpu_t4", "has_gpu_t4"),
            ("kvm_ascend_310", "has_kvm_ascend_310"),
            ("kvm_hi1822_hiovs", "has_hiovs"),
            ("s4l", "has_s4l"),
        )
    ),
)

BY_NAME: Mapping[str, Attribute] = {attribute.name: attribute for attribute in ATTRIBUTES}

# The one attribute that is null where it says nothing; the others are absent (§5).
NULL = "virtual_size"


def to_vendor(image: pb.Image) -> dict[str, Any]:
    """An image as the hosted service writes it (§5.3); properties stand among the attributes."""
    written = {attribute.name: attribute.write(image) for attribute in ATTRIBUTES}
    found = {name: value for name, value in written.items() if value is not None or name == NULL}
    return {key: value for key, value in image.properties.items() if key not in BY_NAME} | found


def from_vendor(attributes: Mapping[str, Any]) -> pb.Image:
    """What ``attributes`` say of an image; those that nobody knows are properties.

    Raises ValueError, with the name of the attribute, for a value that is none.
    """
    image = pb.Image()
    for name, value in attributes.items():
        attribute = BY_NAME.get(name)
        try:
            if attribute is None:
                image.properties[name] = values.read_text(value)
            elif attribute.read is not None and value is not None:
                attribute.read(image, value)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name}: {error}") from None
    return image


def update_paths(name: str) -> tuple[str, ...]:
    """The paths of an update mask for an attribute; of one that nobody knows, that of its property.

    Empty for one that follows from others. What `imsd.v1.ImageService` never changes, an id for example, it
    refuses by its path.
    """
    attribute = BY_NAME.get(name)
    if attribute is None:
        return (f"properties.{name}",)
    return attribute.fields if attribute.read is not None else ()
