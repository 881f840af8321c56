"""What a list asks for over the wire: hostile input first, then that each field means what it says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from imsd.contract import InvalidRequest
from imsd.grpc_server.convert_image_query import family_query_from_pb, image_query_from_pb
from imsd.metadata.image_query import ImageQuery, Scope, TimeRange
from imsd.metadata.records import MemberStatus
from imsd.v1 import guest_pb2
from imsd.v1 import image_pb2 as pb

UUID = "11111111-2222-4333-8444-555555555555"
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def query(order_by: str = "", **wanted: Any) -> ImageQuery:
    return image_query_from_pb(pb.ListImagesRequest(filter=pb.ImageFilter(**wanted), order_by=order_by))


def when(operator: Any, seconds: int, nanos: int = 0) -> pb.TimeFilter:
    return pb.TimeFilter(operator=operator, time=Timestamp(seconds=seconds, nanos=nanos))


HOSTILE: list[dict[str, Any]] = [
    {"scope": 99},
    {"scope": -1},
    {"statuses": [99]},
    {"disk_formats": [0]},
    {"visibilities": [4]},
    {"visibilities": [0]},
    {"visibilities": [1] * 400_000},
    {"member_statuses": [7]},
    {"kinds": [-1]},
    {"os_types": [1] * 5},
    {"architectures": [3]},
    {"boot_modes": [3]},
    {"server_kinds": [3]},
    {"os_bits": [16]},
    {"os_bits": [0]},
    {"os_bits": [-64]},
    {"os_bits": [64] * 400_000},
    {"name": "x" * 129},
    {"name": "a\0"},
    {"search": "x" * 129},
    {"search": "\0"},
    {"search": "a\x1fb"},
    {"search": "a\nb"},
    {"id": "x"},
    {"id": UUID.upper().replace("1", "A")},
    {"id": "%"},
    {"owner_project_id": "a b"},
    {"owner_project_id": "x" * 65},
    {"platforms": [""]},
    {"platforms": ["x" * 33]},
    {"platforms": [str(number) for number in range(65)]},
    {"platforms": ["a\0"]},
    {"os_versions": [""]},
    {"os_versions": ["x" * 256]},
    {"os_versions": ["x"] * 100_000},
    {"family": "Upper"},
    {"family": "a%"},
    {"enterprise_project_id": "all_granted_eps"},
    {"server_type": "x" * 65},
    {"server_type": "\0"},
    {"server_support": pb.ServerSupport(kvm_gpu_type="a b")},
    {"server_support": pb.ServerSupport(xen_gpu_type="x" * 65)},
    {"created_at": [pb.TimeFilter()]},
    {"updated_at": [pb.TimeFilter(operator=pb.TimeFilter.OPERATOR_GT)]},
    {"created_at": [when(99, 0)]},
    {"created_at": [when(1, 1 << 62)]},
    {"created_at": [when(1, -(1 << 62))]},
    {"created_at": [when(1, 253402300799)]},
    {"updated_at": [when(1, 0)] * 5},
    {"tags": {" ": "c"}},
    {"tags": {"a": "b", "a ": "b"}},
    {"tags": {"k" * 128: ""}},
    {"tags": {"k": "v" * 256}},
    {"tags": {"k": "\0"}},
    {"tags": {str(number): "" for number in range(51)}},
]


@pytest.mark.parametrize("wanted", HOSTILE, ids=lambda wanted: next(iter(wanted)))
def test_what_no_list_can_ask_for_is_refused(wanted: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        query(**wanted)
    assert refused.value.field
    assert len(refused.value.message) < 300


@pytest.mark.parametrize(
    "order_by", ["colour", "name  desc", "name;drop", "id descending", "NAME", " name", "x" * 100_000, "size"]
)
def test_an_unknown_order_is_refused(order_by: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        query(order_by)
    assert refused.value.field == "order_by"
    assert len(refused.value.message) < 200


def test_an_order_is_a_column_and_a_direction() -> None:
    assert (query().order_by, query().descending) == ("created_at", True)
    assert (query("min_disk").order_by, query("min_disk").descending) == ("min_disk_gb", False)
    assert (query("id desc").order_by, query("id desc").descending) == ("id", True)


def test_every_field_narrows_the_list() -> None:
    asked = query(
        name="web*",
        search="deb",
        scope=pb.ImageFilter.SCOPE_SHARED_WITH_ME,
        member_statuses=[pb.MEMBER_STATUS_REJECTED, pb.MEMBER_STATUS_PENDING],
        visibilities=[pb.VISIBILITY_SHARED],
        id=UUID,
        owner_project_id="owner",
        is_protected=False,
        kinds=[pb.IMAGE_KIND_ISO, pb.IMAGE_KIND_DATA_DISK, pb.IMAGE_KIND_ISO],
        os_types=[guest_pb2.OS_TYPE_WINDOWS],
        os_bits=[64, 32, 64][:2],
        platforms=["b", "a", "b"],
        os_versions=["CentOS 7.6 64bit"],
        architectures=[guest_pb2.ARCHITECTURE_ARM],
        boot_modes=[guest_pb2.BOOT_MODE_UEFI],
        min_disk_gb=0,
        min_ram_mb=-5,
        family="f",
        is_deprecated=False,
        is_published=True,
        server_kinds=[pb.SERVER_KIND_BARE_METAL],
        enterprise_project_id="0",
        server_support=pb.ServerSupport(has_kvm=True, xen_gpu_type="M60_vGPU"),
        server_type="S6",
    )
    assert asked.scope is Scope.SHARED
    assert asked.member_statuses == (MemberStatus.PENDING, MemberStatus.REJECTED)
    assert dict(asked.any_of) == {
        "visibility": ("shared",),
        "kind": ("data_disk", "iso"),
        "os_type": ("windows",),
        "os_bits": (32, 64),
        "platform": ("a", "b"),
        "os_version": ("CentOS 7.6 64bit",),
        "architecture": ("arm",),
        "boot_mode": ("uefi",),
        "server_kind": ("bare_metal",),
    }
    assert dict(asked.exactly) == {
        "id": UUID,
        "project_id": "owner",
        "is_protected": False,
        "min_disk_gb": 0,
        "min_ram_mb": -5,
        "family": "f",
        "is_published": True,
        "enterprise_project_id": "0",
    }
    assert asked.is_deprecated is False
    assert asked.support == (("has_kvm", "true"), ("xen_gpu_type", "M60_vGPU"))
    assert (asked.name_pattern, asked.search, asked.server_type) == ("web*", "deb", "S6")


def test_an_empty_filter_asks_for_the_projects_own_images() -> None:
    asked = query()
    assert (asked.scope, asked.any_of, asked.exactly, asked.times) == (Scope.OWN, (), (), ())
    assert asked.is_deprecated is None


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        (pb.TimeFilter.OPERATOR_GT, TimeRange("created_at", first=NOON + timedelta(seconds=1))),
        (pb.TimeFilter.OPERATOR_GTE, TimeRange("created_at", first=NOON)),
        (pb.TimeFilter.OPERATOR_LT, TimeRange("created_at", end=NOON)),
        (pb.TimeFilter.OPERATOR_LTE, TimeRange("created_at", end=NOON + timedelta(seconds=1))),
        (pb.TimeFilter.OPERATOR_EQ, TimeRange("created_at", NOON, NOON + timedelta(seconds=1))),
        (pb.TimeFilter.OPERATOR_NEQ, TimeRange("created_at", NOON, NOON + timedelta(seconds=1), True)),
    ],
)
def test_a_time_stands_for_its_second(operator: Any, expected: TimeRange) -> None:
    asked = query(created_at=[when(operator, int(NOON.timestamp()), 999_999_999)])
    assert asked.times == (expected,)


def test_the_same_filter_written_otherwise_is_the_same_query() -> None:
    one = query(kinds=[1, 2], platforms=["a", "b"], os_bits=[32, 64], member_statuses=[1, 2])
    other = query(kinds=[2, 1, 2], platforms=["b", "a", "a"], os_bits=[64, 32], member_statuses=[2, 1])
    assert repr(one) == repr(other)


def test_a_family_is_asked_for_with_an_architecture() -> None:
    request = pb.ResolveFamilyRequest(project_id="p", family="f", architecture=guest_pb2.ARCHITECTURE_ARM)
    asked = family_query_from_pb(request)
    assert (asked.project_id, asked.family, asked.architecture) == ("p", "f", "arm")
    with pytest.raises(InvalidRequest):
        family_query_from_pb(pb.ResolveFamilyRequest(family="f", architecture=9))  # type: ignore[arg-type]


def test_tags_are_looked_for_as_freely_as_by_the_calls_on_tags() -> None:
    """Contract §8.3, by-tag queries; and as many as the largest limits.max_tags_per_image."""
    assert query(tags={" k" * 63: "v w" * 85}).tags == {(" k" * 63).strip(): "v w" * 85}
    assert len(query(tags={f"k{number}": "" for number in range(50)}).tags) == 50
    assert list(query(tags={"b": "", "a": ""}).tags) == ["a", "b"]
