"""What a list asks for: however a client writes it, one meaning has one query and one page token."""

from typing import Any

import pytest

from imsd.contract import InvalidRequest
from imsd.core.page_token import PageTokens
from imsd.formats.registry import FORMATS
from imsd.grpc_server import convert
from imsd.grpc_server.convert_image_query import image_query_from_pb
from imsd.grpc_server.convert_tags import tag_list_query_from_pb
from imsd.metadata.image_query import Scope
from imsd.v1 import image_pb2, tag_pb2


def request(
    tags: dict[str, str], statuses: list[image_pb2.ImageStatus.ValueType]
) -> image_pb2.ListImagesRequest:
    return image_pb2.ListImagesRequest(filter=image_pb2.ImageFilter(tags=tags, statuses=statuses))


def test_a_page_token_fits_the_same_filter_in_another_order() -> None:
    active, queued = image_pb2.IMAGE_STATUS_ACTIVE, image_pb2.IMAGE_STATUS_QUEUED
    one = image_query_from_pb(request({"a": "1", "b": "2"}, [active, queued]))
    other = image_query_from_pb(request({"b": "2", "a": "1"}, [queued, active, queued]))
    tokens = PageTokens(b"secret")
    assert tokens.read(other, tokens.make(one, ("x", "id"))) == ("x", "id")


def test_a_value_that_is_named_twice_counts_once() -> None:
    raw, qcow2 = image_pb2.DISK_FORMAT_RAW, image_pb2.DISK_FORMAT_QCOW2
    assert sorted(convert.formats_from_pb([raw, qcow2, raw], "formats")) == ["qcow2", "raw"]


@pytest.mark.parametrize(
    "convert_values", [convert.statuses_from_pb, convert.job_states_from_pb, convert.job_kinds_from_pb]
)
def test_more_values_than_there_are_is_refused(convert_values: object) -> None:
    assert callable(convert_values)
    with pytest.raises(InvalidRequest):
        convert_values([1] * 400_000)


def test_formats_are_bounded_as_well() -> None:
    with pytest.raises(InvalidRequest) as refused:
        convert.formats_from_pb([1] * 1000, "filter.disk_formats")
    assert refused.value.field == "filter.disk_formats"


@pytest.mark.parametrize("value", [0, 99, -1])
def test_an_unknown_value_is_refused(value: int) -> None:
    with pytest.raises(InvalidRequest):
        convert.formats_from_pb([value], "filter.disk_formats")


@pytest.mark.parametrize("name", sorted({name for known in FORMATS for name in known.compressions}))
def test_every_compression_of_a_format_has_a_number(name: str) -> None:
    assert convert.compression_from_pb(convert.compression_to_pb(name)) == name


@pytest.mark.parametrize(
    "wanted",
    [
        {"scope": image_pb2.ImageFilter.SCOPE_SHARED_WITH_ME},
        {"scope": image_pb2.ImageFilter.SCOPE_ALL},
        {"member_statuses": [image_pb2.MEMBER_STATUS_PENDING]},
        {"server_type": "S6"},
    ],
)
def test_what_a_list_of_tags_would_ignore_is_refused(wanted: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        tag_list_query_from_pb(tag_pb2.ListTagsRequest(filter=image_pb2.ImageFilter(**wanted)))
    assert refused.value.field == f"filter.{next(iter(wanted))}"
    own = image_pb2.ImageFilter(scope=image_pb2.ImageFilter.SCOPE_OWN)
    assert tag_list_query_from_pb(tag_pb2.ListTagsRequest(filter=own)).scope is Scope.OWN
