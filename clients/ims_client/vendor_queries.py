"""The query of the hosted service's call that lists images (its contract, §3.10), for gateways.

`PARAMETERS` has each of its parameters; one for which no field of `ListImagesRequest` stands says why not.
`list_request` reads a query as HTTP has it, in pairs of texts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from imsd.v1 import guest_pb2
from imsd.v1 import image_pb2 as pb

from . import vendor_values as values
from .vendor_names import ATTRIBUTES, DISK_FORMATS, ENV_TYPES

# The page of that service unless one is asked for, and the largest one here.
DEFAULT_LIMIT: Final = 500
MAX_LIMIT: Final = 1000

# Not of one project.
ALL_ENTERPRISE_PROJECTS: Final = "all_granted_eps"

_PRIVATE, _SHARED, _PUBLIC = pb.VISIBILITY_PRIVATE, pb.VISIBILITY_SHARED, pb.VISIBILITY_PUBLIC
_VISIBILITIES: Final = {"private": _PRIVATE, "shared": _SHARED, "public": _PUBLIC}
# Who sees the images of a type, and whether they are published; None: it does not say.
_IMAGE_TYPES: Final = {
    "gold": (_PUBLIC, None),
    "private": (_PRIVATE, False),
    "shared": (_SHARED, None),
    "market": (_PRIVATE, True),
}
_ANSWERS: Final = {
    "accepted": pb.MEMBER_STATUS_ACCEPTED,
    "rejected": pb.MEMBER_STATUS_REJECTED,
    "pending": pb.MEMBER_STATUS_PENDING,
}
_ORDERS: Final = {
    "name": "name",
    "container_format": "id",
    "disk_format": "disk_format",
    "status": "status",
    "id": "id",
    "size": "virtual_size",
    "created_at": "created_at",
}
_TIMES: Final = ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S")


@dataclass(slots=True)
class _Query:
    """A query while it is read. ``seen_by``: who may see its images; ``is_empty``: no image can fit."""

    request: pb.ListImagesRequest = field(default_factory=pb.ListImagesRequest)
    seen_by: set[pb.Visibility.ValueType] = field(default_factory=lambda: set(_VISIBILITIES.values()))
    is_protected: bool | None = None
    sort_key: str = "created_at"
    sort_dir: str = "desc"
    is_empty: bool = False

    @property
    def filter(self) -> pb.ImageFilter:
        return self.request.filter


# Takes the query and the value; raises ValueError.
Read = Callable[[_Query, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """``fields``: of `imsd.v1.ListImagesRequest`, those of its filter by themselves.

    Empty where the answer is the same for all images; ``note`` says why, or what is not the same.
    """

    name: str
    read: Read
    fields: tuple[str, ...] = ()
    note: str = ""
    may_repeat: bool = False


def _one_of(known: Collection[str], value: str) -> str:
    if value not in known:
        raise ValueError(f"{value[:40]!r} is none of: {', '.join(known)}")
    return value


def _text(name: str, to: str) -> Parameter:
    return Parameter(name=name, fields=(to,), read=lambda query, value: setattr(query.filter, to, value))


def _number(name: str, to: str) -> Parameter:
    def read(query: _Query, value: str) -> None:
        setattr(query.filter, to, values.read_number(value))

    return Parameter(name=name, fields=(to,), read=read)


def _words(name: str, to: str, known: Mapping[str, int]) -> Parameter:
    def read(query: _Query, value: str) -> None:
        getattr(query.filter, to).append(known[_one_of(known, value)])

    return Parameter(name=name, fields=(to,), read=read)


def _constant(name: str, wanted: str, note: str) -> Parameter:
    """Every image is ``wanted``."""

    def read(query: _Query, value: str) -> None:
        query.is_empty |= value.lower() != wanted

    return Parameter(name=name, read=read, note=note)


def _time(name: str) -> Parameter:
    def read(query: _Query, value: str) -> None:
        operator, _, text = value.partition(":")
        operators = {key.removeprefix("OPERATOR_").lower(): key for key in pb.TimeFilter.Operator.keys()[1:]}
        found = getattr(query.filter, name).add(
            operator=pb.TimeFilter.Operator.Value(operators[_one_of(operators, operator)])
        )
        found.time.FromDatetime(_read_time(text))

    return Parameter(name=name, fields=(name,), read=read, may_repeat=True)


def _read_time(text: str) -> datetime:
    for form in _TIMES:
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC)
        except ValueError:
            continue
    raise ValueError(f"{text[:40]!r} is no time as 2026-05-01T12:00:00Z or 2026-05-01 12:00:00")


def _read_image_type(query: _Query, value: str) -> None:
    visibility, is_published = _IMAGE_TYPES[_one_of(_IMAGE_TYPES, value)]
    query.seen_by &= {visibility}
    if is_published is not None:
        query.filter.is_published = is_published


def _read_visibility(query: _Query, value: str) -> None:
    query.seen_by &= {_VISIBILITIES[_one_of(_VISIBILITIES, value)]}


def _read_member_status(query: _Query, value: str) -> None:
    query.filter.member_statuses.append(_ANSWERS[_one_of(_ANSWERS, value)])
    query.filter.scope = pb.ImageFilter.SCOPE_SHARED_WITH_ME
    query.seen_by &= {_SHARED}


def _read_protected(query: _Query, value: str) -> None:
    query.is_protected = values.read_flag(value)


def _read_name(query: _Query, value: str) -> None:
    query.filter.name = value
    query.is_empty |= "*" in value  # stands for anything here, and no name has it


def _read_disk_format(query: _Query, value: str) -> None:
    """That service keeps as ZVHD2 what came in a format of which it has no images."""
    if value == "zvhd2":
        kept = {f"DISK_FORMAT_{name.upper()}" for name in DISK_FORMATS} - {"DISK_FORMAT_ZVHD2"}
        formats = {number for key, number in pb.DiskFormat.items() if key not in kept and number}
        query.filter.disk_formats.extend(sorted(formats))
    elif value in DISK_FORMATS:
        query.filter.disk_formats.append(pb.DiskFormat.Value(f"DISK_FORMAT_{value.upper()}"))
    else:
        query.is_empty = True


def _read_env_type(query: _Query, value: str) -> None:
    kind, server_kind = ENV_TYPES[_one_of(ENV_TYPES, value)]
    query.filter.kinds.append(kind)
    if kind == pb.IMAGE_KIND_SYSTEM_DISK:
        query.filter.server_kinds.append(server_kind)


def _read_flavor(query: _Query, value: str) -> None:
    query.filter.server_type = value.partition(".")[0]
    if not query.filter.server_type:
        raise ValueError(f"{value[:40]!r} names no series of servers")


def _read_enterprise_project(query: _Query, value: str) -> None:
    query.filter.enterprise_project_id = "" if value == ALL_ENTERPRISE_PROJECTS else value


def _read_key(query: _Query, value: str) -> None:
    query.is_empty |= len(value) != 36  # no key has such an id
    query.filter.key_id = "" if query.is_empty else value.lower()


def _read_tag(query: _Query, value: str) -> None:
    for key, content in values.read_tags([value]).items():
        before = query.filter.tags.get(key, "")
        query.is_empty |= "" not in (before, content) and before != content
        query.filter.tags[key] = content or before


def _read_sort_key(query: _Query, value: str) -> None:
    query.sort_key = _one_of(_ORDERS, value)


def _read_sort_dir(query: _Query, value: str) -> None:
    query.sort_dir = _one_of(("asc", "desc"), value)


def _read_limit(query: _Query, value: str) -> None:
    limit = values.read_number(value)
    if limit < 1:
        raise ValueError(f"{limit} is no number of images")
    query.request.page_size = min(limit, MAX_LIMIT)


def _read_marker(query: _Query, value: str) -> None:
    query.request.page_token = value


def _mark(name: str, path: str) -> Parameter:
    mark = path.removeprefix("server_support.")

    def read(query: _Query, value: str) -> None:
        if not mark.startswith("has_"):
            setattr(query.filter.server_support, mark, value)
        elif values.read_flag(value):
            setattr(query.filter.server_support, mark, True)
        else:
            query.is_empty = True  # a mark that is not set is absent there, and never "false"

    return Parameter(name=name, fields=("server_support",), read=read)


def _statuses() -> dict[str, int]:
    return {key.removeprefix("IMAGE_STATUS_").lower(): number for key, number in pb.ImageStatus.items()[1:]}


PARAMETERS: tuple[Parameter, ...] = (
    Parameter(
        name="__imagetype",
        fields=("scope", "visibilities", "is_published"),
        read=_read_image_type,
        note="shared are those of others and the own ones that were shared, as there",
    ),
    Parameter(name="visibility", fields=("scope", "visibilities"), read=_read_visibility),
    Parameter(
        name="protected",
        fields=("is_protected",),
        read=_read_protected,
        note="every public image is: true needs visibility or __imagetype beside it",
    ),
    _constant("__isregistered", "true", "every image is"),
    _text("owner", "owner_project_id"),
    _text("id", "id"),
    Parameter(name="name", fields=("name",), read=_read_name),
    _words("status", "statuses", _statuses()),
    Parameter(
        name="flavor_id",
        fields=("server_type",),
        read=_read_flavor,
        note="by its series, which the catalogue of systems knows: s6 of s6.large.2",
    ),
    _constant("container_format", "bare", "every image is bare"),
    Parameter(name="disk_format", fields=("disk_formats",), read=_read_disk_format),
    _number("min_ram", "min_ram_mb"),
    _number("min_disk", "min_disk_gb"),
    Parameter(
        name="__os_bit",
        fields=("os_bits",),
        read=lambda query, value: query.filter.os_bits.append(values.read_number(value)),
    ),
    _words(
        "__os_type",
        "os_types",
        {
            "Linux": guest_pb2.OS_TYPE_LINUX,
            "Windows": guest_pb2.OS_TYPE_WINDOWS,
            "Other": guest_pb2.OS_TYPE_OTHER,
        },
    ),
    Parameter(
        name="__platform",
        fields=("platforms",),
        read=lambda query, value: query.filter.platforms.append(values.read_platform(value)),
    ),
    Parameter(
        name="__os_version",
        fields=("os_versions",),
        read=lambda query, value: query.filter.os_versions.append(values.read_os_version(value)),
    ),
    _words(
        "architecture",
        "architectures",
        {"x86": guest_pb2.ARCHITECTURE_X86, "arm": guest_pb2.ARCHITECTURE_ARM},
    ),
    Parameter(name="virtual_env_type", fields=("kinds", "server_kinds"), read=_read_env_type),
    _constant("__whole_image", "false", "servers are not part of this service yet"),
    Parameter(
        name="__system__cmkid",
        fields=("key_id",),
        read=_read_key,
    ),
    Parameter(
        name="tag",
        fields=("tags",),
        read=_read_tag,
        note="key= fits any value of the key",
        may_repeat=True,
    ),
    Parameter(name="member_status", fields=("scope", "member_statuses"), read=_read_member_status),
    *(
        _mark(attribute.name, attribute.fields[0])
        for attribute in ATTRIBUTES
        if attribute.fields and attribute.fields[0].startswith("server_support.")
    ),
    Parameter(
        name="enterprise_project_id",
        fields=("enterprise_project_id",),
        read=_read_enterprise_project,
        note="images of other projects have 0",
    ),
    _time("created_at"),
    _time("updated_at"),
    Parameter(
        name="sort_key",
        fields=("order_by",),
        read=_read_sort_key,
        note="size is the size of the disk; equal container formats are ordered by id",
    ),
    Parameter(name="sort_dir", fields=("order_by",), read=_read_sort_dir),
    Parameter(
        name="limit",
        fields=("page_size",),
        read=_read_limit,
        note=f"a page has at most {MAX_LIMIT}, and {DEFAULT_LIMIT} unless it is given",
    ),
    Parameter(
        name="marker",
        fields=("page_token",),
        read=_read_marker,
        note="page_info.next_marker is next_page_token: no id, but what a client sends back",
    ),
)

BY_NAME: Mapping[str, Parameter] = {parameter.name: parameter for parameter in PARAMETERS}


def list_request(pairs: Iterable[tuple[str, str]]) -> pb.ListImagesRequest | None:
    """What the parameters ask for; None: no image can fit. ``project_id`` is the caller's to set.

    A parameter with an empty value says nothing. Raises ValueError, with the name of the parameter, for one
    that nobody knows, that stands there twice, or whose value is none.
    """
    query, seen = _Query(), set()
    for name, value in pairs:
        parameter = BY_NAME.get(name)
        if parameter is None:
            raise ValueError(f"{name[:64]}: no such parameter")
        if name in seen and not parameter.may_repeat:
            raise ValueError(f"{name}: stands there twice")
        seen.add(name)
        if value:
            try:
                parameter.read(query, value)
            except (ValueError, TypeError) as error:
                raise ValueError(f"{name}: {error}") from None
    _decide_protection(query)
    _decide_scope(query)
    query.request.page_size = query.request.page_size or DEFAULT_LIMIT
    query.request.order_by = f"{_ORDERS[query.sort_key]} {query.sort_dir}"
    return None if query.is_empty or not query.seen_by else query.request


def _decide_protection(query: _Query) -> None:
    """A public image is protected there, whether it is marked here or not."""
    if query.is_protected is None or (query.is_protected and query.seen_by == {_PUBLIC}):
        return
    if not query.is_protected:
        query.seen_by.discard(_PUBLIC)
    elif _PUBLIC in query.seen_by:
        raise ValueError("protected: say by visibility or __imagetype whether public images are meant")
    query.filter.is_protected = query.is_protected


def _decide_scope(query: _Query) -> None:
    """Without anything said: own images, public ones, and those of others that were accepted."""
    scopes = pb.ImageFilter
    if query.filter.scope == scopes.SCOPE_SHARED_WITH_ME:
        return
    is_public = query.seen_by == {_PUBLIC}
    query.filter.scope = scopes.SCOPE_PUBLIC if is_public else scopes.SCOPE_ALL
    if not is_public and len(query.seen_by) < len(_VISIBILITIES):
        query.filter.visibilities.extend(sorted(query.seen_by))
