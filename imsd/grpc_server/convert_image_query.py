"""Requests for lists of images, converted: one meaning is one query, however a client writes it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from imsd.core import attribute_checks, checks, limits, tag_filter
from imsd.core import image_list_filter as filters
from imsd.core.images import FamilyQuery
from imsd.guest_messages import ARCHITECTURES, BOOT_MODES
from imsd.metadata.image_query import LISTED_STATUSES, ImageQuery, Scope, TimeRange
from imsd.metadata.records import MemberStatus
from imsd.v1 import image_pb2 as pb

from . import convert
from . import convert_image_fields as fields

_SCOPES = {
    scope.value: pb.ImageFilter.Scope.Value(f"SCOPE_{name}")
    for name, scope in (
        ("OWN", Scope.OWN),
        ("PUBLIC", Scope.PUBLIC),
        ("SHARED_WITH_ME", Scope.SHARED),
        ("ALL", Scope.ALL),
    )
}
_OPERATORS = {
    number: name.removeprefix("OPERATOR_").lower()
    for name, number in pb.TimeFilter.Operator.items()
    if number
}


def image_query_from_pb(request: pb.ListImagesRequest) -> ImageQuery:
    """Raises InvalidRequest."""
    wanted = request.filter
    column, descending = filters.order(request.order_by)
    return ImageQuery(
        project_id=checks.project_id(request.project_id),
        scope=Scope(convert.known_name(_SCOPES, wanted.scope, "filter.scope") or Scope.OWN),
        member_statuses=tuple(
            map(MemberStatus, _names(fields.MEMBER_STATUSES, wanted.member_statuses, "member_statuses"))
        ),
        name_pattern=checks.text("filter.name", wanted.name, limits.MAX_NAME),
        search=filters.search(wanted.search),
        statuses=convert.statuses_from_pb(wanted.statuses) or LISTED_STATUSES,
        disk_formats=convert.formats_from_pb(wanted.disk_formats, "filter.disk_formats"),
        tags=tag_filter.wanted_tags(wanted.tags),
        any_of=tuple(_any_of(wanted)),
        exactly=tuple(_exactly(wanted)),
        is_deprecated=wanted.is_deprecated if wanted.HasField("is_deprecated") else None,
        is_encrypted=wanted.is_encrypted if wanted.HasField("is_encrypted") else None,
        support=_support(wanted.server_support) if wanted.HasField("server_support") else (),
        times=(*_times("created_at", wanted.created_at), *_times("updated_at", wanted.updated_at)),
        server_type=checks.text("filter.server_type", wanted.server_type, limits.MAX_SERVER_TYPE),
        order_by=column,
        descending=descending,
    )


def family_query_from_pb(request: pb.ResolveFamilyRequest) -> FamilyQuery:
    """Raises InvalidRequest."""
    return FamilyQuery(request.project_id, request.family, fields.architecture_from_pb(request.architecture))


def is_public_list_from_pb(request: pb.ExportImageListRequest) -> bool:
    """Raises InvalidRequest."""
    scopes = {"private": request.SCOPE_PRIVATE, "public": request.SCOPE_PUBLIC}
    return convert.known_name(scopes, request.scope, "scope") == "public"


def _any_of(wanted: pb.ImageFilter) -> Iterator[tuple[str, tuple[str | int, ...]]]:
    for name, table, values in (
        ("visibility", fields.VISIBILITIES, wanted.visibilities),
        ("kind", fields.KINDS, wanted.kinds),
        ("os_type", fields.OS_TYPE_NUMBERS, wanted.os_types),
        ("architecture", ARCHITECTURES, wanted.architectures),
        ("boot_mode", BOOT_MODES, wanted.boot_modes),
        ("server_kind", fields.SERVER_KINDS, wanted.server_kinds),
    ):
        if values:
            yield name, _names(table, values, name)
    if wanted.os_bits:
        yield "os_bits", filters.bits(wanted.os_bits)
    if wanted.platforms:
        yield "platform", filters.texts("filter.platforms", wanted.platforms, limits.MAX_PLATFORM)
    if wanted.os_versions:
        yield "os_version", filters.texts("filter.os_versions", wanted.os_versions, limits.MAX_OS_VERSION)
    if wanted.stores:
        yield "store", filters.texts("filter.stores", wanted.stores, limits.MAX_STORE)


def _exactly(wanted: pb.ImageFilter) -> Iterator[tuple[str, str | int | bool]]:
    if wanted.id:
        yield "id", checks.uuid("filter.id", wanted.id)
    if wanted.owner_project_id:
        yield (
            "project_id",
            filters.matching(
                "filter.owner_project_id", wanted.owner_project_id, limits.PROJECT, "a project id"
            ),
        )
    if wanted.family:
        yield "family", attribute_checks.family(wanted.family)
    if wanted.key_id:
        yield "key_id", checks.uuid("filter.key_id", wanted.key_id)
    if wanted.enterprise_project_id:
        yield "enterprise_project_id", filters.enterprise_project(wanted.enterprise_project_id)
    for name in ("is_protected", "is_published", "min_disk_gb", "min_ram_mb"):
        if wanted.HasField(name):
            yield name, getattr(wanted, name)


def _support(wanted: pb.ServerSupport) -> tuple[tuple[str, str], ...]:
    marks = attribute_checks.devices(
        {name: value for name, value in fields.server_support_from_pb(wanted).items() if value}
    )
    return tuple((name, "true" if value is True else str(value)) for name, value in sorted(marks.items()))


def _times(column: str, wanted: Collection[pb.TimeFilter]) -> tuple[TimeRange, ...]:
    if not all(each.HasField("time") for each in wanted):
        checks.refuse(f"filter.{column}", "a condition names no time", "set the time that it compares with")
    return filters.times(column, [(_OPERATORS.get(each.operator, ""), each.time.seconds) for each in wanted])


def _names(table: Mapping[str, Any], values: Collection[int], field: str) -> tuple[str, ...]:
    """Each once and always in one order. Raises InvalidRequest, also for more values than there are."""
    if len(values) > len(table):
        checks.refuse(f"filter.{field}", f"{len(values)} values, but there are only {len(table)}")
    return tuple(sorted({_known(table, value, field) for value in values}))


def _known(table: Mapping[str, Any], value: int, field: str) -> str:
    name = convert.known_name(table, value, f"filter.{field}")
    return name or checks.refuse(f"filter.{field}", "0 is no known value")
