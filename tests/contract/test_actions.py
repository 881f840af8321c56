"""Every call of the contract has an action, and every action a call."""

from __future__ import annotations

from imsd.core.actions import OPERATIONS
from imsd.v1 import (
    attachment_pb2,
    bucket_pb2,
    catalog_pb2,
    driver_pb2,
    identity_pb2,
    image_pb2,
    job_pb2,
    key_pb2,
    member_pb2,
    policy_pb2,
    quota_pb2,
    store_pb2,
    store_upkeep_pb2,
    tag_pb2,
    trace_pb2,
    upload_pb2,
)

FILES = (
    attachment_pb2,
    bucket_pb2,
    catalog_pb2,
    driver_pb2,
    identity_pb2,
    image_pb2,
    job_pb2,
    key_pb2,
    member_pb2,
    policy_pb2,
    quota_pb2,
    store_pb2,
    store_upkeep_pb2,
    tag_pb2,
    trace_pb2,
    upload_pb2,
)
METHODS = {
    f"{service.full_name}/{method.name}": method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}

READING = ("Get", "List", "Watch", "Resolve", "Find", "Count", "Check", "Inspect", "Download", "Stat")
CHANGING_TOO = ("CheckStore",)  # what a check writes it deletes, and it is told
READING_TOO = ("ExportImageList", "ExportTraces", "VerifyTraces")


def test_every_call_has_an_action() -> None:
    assert set(OPERATIONS) == set(METHODS)


def test_what_names_a_resource_is_a_field_of_the_request() -> None:
    wrong = []
    for name, operation in OPERATIONS.items():
        fields = METHODS[name].input_type.fields_by_name
        if METHODS[name].client_streaming:
            fields = fields["header"].message_type.fields_by_name
        if operation.id_field and operation.id_field not in fields:
            wrong.append(name)
        if operation.found_field and operation.found_field not in METHODS[name].output_type.fields_by_name:
            wrong.append(name)
    assert wrong == []


def test_what_changes_an_image_takes_the_etag_that_was_read() -> None:
    """So that nobody undoes what another one did meanwhile. The others make something, or only look."""
    making = {"AttachImage", "CopyImage", "ExportImage", "VerifyImage"}
    without = {
        name.rpartition("/")[2]
        for name, operation in OPERATIONS.items()
        if operation.is_mutation
        and operation.id_field == "image_id"
        and "etag" not in METHODS[name].input_type.fields_by_name
    }
    assert without == making


def test_what_looks_for_an_image_says_where_its_answer_names_it() -> None:
    looking = {name for name in OPERATIONS if name.rpartition("/")[2].startswith("Resolve")}
    assert looking == {name for name, operation in OPERATIONS.items() if operation.found_field}


def test_what_only_reads_leaves_no_trace() -> None:
    for name, operation in OPERATIONS.items():
        call = name.rpartition("/")[2]
        reads = (call.startswith(READING) or call in READING_TOO) and call not in CHANGING_TOO
        assert operation.is_mutation is not reads, name
