"""What of a request is told in its trace is decided field by field."""

from __future__ import annotations

from collections.abc import Iterator

from imsd.core.actions import OPERATIONS
from imsd.grpc_server.trace_details import OF_THE_TRACE, TRACED, WITHHELD
from tests.contract.test_actions import METHODS

DECIDED = {*TRACED, *WITHHELD, *OF_THE_TRACE}


def fields_of_mutations() -> Iterator[tuple[str, str]]:
    """Each field of each request that changes something, but for the one that names its resource."""
    for method, operation in OPERATIONS.items():
        if not operation.is_mutation:
            continue
        request = METHODS[method].input_type
        admitted = request.fields_by_name["header"].message_type if METHODS[method].client_streaming else None
        for descriptor in filter(None, (request, admitted)):
            for name in descriptor.fields_by_name:
                if name != operation.id_field:
                    yield method, name


def test_of_every_field_it_is_decided_whether_it_is_traced() -> None:
    assert [each for each in fields_of_mutations() if each[1] not in DECIDED] == []


def test_no_field_is_both_told_and_withheld() -> None:
    assert not set(TRACED) & set(WITHHELD)


def test_what_is_decided_is_there() -> None:
    image = METHODS["imsd.v1.ImageService/UpdateImage"].input_type.fields_by_name["image"].message_type
    names = {name for _, name in fields_of_mutations()} | set(image.fields_by_name)
    assert [name for name in DECIDED if name not in names] == []


def test_a_field_that_was_forgotten_is_missed() -> None:
    assert "secret" not in DECIDED
