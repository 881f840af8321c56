from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import field_mask_pb2

from imsd.core.caller import THE_DAEMON, Caller, CallerKind
from imsd.core.trace_text import (
    MAX_DETAIL,
    MAX_DETAILS_TOGETHER,
    chain_of,
    fitted,
    fitted_details,
    may_fill,
)
from imsd.grpc_server.trace_details import details_of
from imsd.v1 import identity_pb2, image_pb2, member_pb2, tag_pb2, upload_pb2


def create(**values: Any) -> image_pb2.CreateImageRequest:
    return image_pb2.CreateImageRequest(**values)


@pytest.mark.parametrize(
    ("request_", "details"),
    [
        (create(), {}),
        (create(name="web", project_id="lab", request_id="r"), {"name": "web"}),
        (
            create(disk_format=image_pb2.DISK_FORMAT_QCOW2, is_fast=True),
            {"disk_format": "qcow2", "is_fast": "true"},
        ),
        (create(disk_format=4711), {"disk_format": "4711"}),
        (create(tags={"b": "2", "a": "1"}, min_disk_gb=8), {"tags": "a=1,b=2", "min_disk_gb": "8"}),
        (create(properties={"password": "secret"}, description="secret"), {}),
        (
            create(url="https://ann:secret@example.org:8443/a/b.img?sig=secret#x"),
            {"url": "https://example.org:8443/a/b.img"},
        ),
        (create(url="https://[2001:DB8::1]:8443/a?secret"), {"url": "https://[2001:db8::1]:8443/a"}),
        (create(url="https://[::1/x?secret"), {"url": "(not a URL)"}),
        (create(url="https://example.org:secret/x"), {"url": "(not a URL)"}),
        (create(url="secret"), {"url": "(not a URL)"}),
        (tag_pb2.SetImageTagsRequest(image_id="i", tags=[tag_pb2.Tag(key="a", value="1")]), {"tags": "a=1"}),
        (
            tag_pb2.DeleteImageTagsRequest(keys=["a", "b"], is_lenient=True),
            {"keys": "a,b", "is_lenient": "true"},
        ),
        (
            member_pb2.UpdateMembersRequest(image_ids=["x", "y"], status=image_pb2.MEMBER_STATUS_ACCEPTED),
            {"image_ids": "x,y", "status": "accepted"},
        ),
        (
            upload_pb2.WriteUploadRequest.Header(upload_id="u", offset=7, file_token=b"secret"),
            {"upload_id": "u", "offset": "7"},
        ),
        (
            identity_pb2.CreateTokenRequest(name="ci", lifetime_seconds=60),
            {"name": "ci", "lifetime_seconds": "60"},
        ),
    ],
)
def test_details_are_what_was_asked_for(request_: Any, details: dict[str, str]) -> None:
    assert details_of(request_, "image_id") == details


def test_the_field_that_names_the_resource_is_no_detail() -> None:
    assert details_of(upload_pb2.CommitUploadRequest(upload_id="u", size_bytes=1), "upload_id") == {
        "size_bytes": "1"
    }


def test_an_update_tells_the_new_values_of_traced_fields_in_its_mask() -> None:
    request = image_pb2.UpdateImageRequest(
        image=image_pb2.Image(
            name="new", min_ram_mb=5, description="secret", properties={"k": "secret"}, tags={"a": "b"}
        ),
        update_mask=field_mask_pb2.FieldMask(
            paths=["is_protected", "name", "description", "properties.k", "tags", "nonsense"]
        ),
    )
    assert details_of(request, "image_id") == {
        "update_mask": "is_protected,name,description,properties.k,tags,nonsense",
        "is_protected": "false",
        "name": "new",
        "tags": "a=b",
    }


def test_a_request_of_any_size_has_details_that_fit() -> None:
    request = member_pb2.AddMembersRequest(image_ids=["x" * 36] * 20_000, member_project_ids=["p" * 9_000])
    details = fitted_details(details_of(request, ""))
    assert len(details["image_ids"]) == MAX_DETAIL
    assert details["image_ids"].endswith("…")
    assert sum(map(len, details.values())) == MAX_DETAILS_TOGETHER


def test_a_hundred_images_and_ten_projects_are_told_whole() -> None:
    ids = [f"{number:036d}" for number in range(100)]
    projects = [f"{number:064d}" for number in range(10)]
    details = fitted_details(
        details_of(member_pb2.AddMembersRequest(image_ids=ids, member_project_ids=projects), "")
    )
    assert details == {"image_ids": ",".join(ids), "member_project_ids": ",".join(projects)}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b", "a b"),
        ("a\nb\x00\x1b[2J", "a\ufffdb\ufffd\ufffd[2J"),
        ("x" * 11, "x" * 9 + "…"),
        ("x" * 10, "x" * 10),
        ("", ""),
    ],
)
def test_a_text_is_printable_and_fits(text: str, shown: str) -> None:
    assert fitted(text, 10) == shown


ANN = Caller(kind=CallerKind.API_TOKEN, id="ann")


@pytest.mark.parametrize(
    ("project_id", "caller", "chain"),
    [
        ("lab", ANN, "lab"),
        (None, ANN, "@service"),
        ("*", ANN, "@service"),
        ("../x", ANN, "@service"),
        ("x" * 65, ANN, "@service"),
        ("@service", ANN, "@service"),
        ("", ANN, "@service"),
        ("", THE_DAEMON, "default"),
    ],
)
def test_the_chain_of_a_call_is_that_of_its_project(
    project_id: str | None, caller: Caller, chain: str
) -> None:
    assert chain_of(project_id, caller) == chain


def with_roles(*project_ids: str) -> Caller:
    roles = {project_id: frozenset({"IMS ReadOnlyAccess"}) for project_id in project_ids}
    return Caller(kind=CallerKind.API_TOKEN, id="ann", roles=roles)


@pytest.mark.parametrize(
    ("chain", "caller", "is_there"),
    [
        ("lab", ANN, False),
        ("@service", ANN, True),
        ("lab", with_roles("web"), False),
        ("@service", with_roles("web"), True),
        ("lab", with_roles("web", "lab"), True),
        ("lab", with_roles("*"), True),
        ("@service", with_roles("*"), True),
        ("lab", THE_DAEMON, True),
        ("@service", THE_DAEMON, True),
    ],
)
def test_what_is_refused_is_traced_where_the_caller_has_a_role_or_for_the_service(
    chain: str, caller: Caller, is_there: bool
) -> None:
    assert may_fill(chain, caller) is is_there
