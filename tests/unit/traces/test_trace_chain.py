from __future__ import annotations

import hashlib
import json
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from imsd.trace_chain import GENESIS, Trace, TraceOutcome, canonical, hash_of, time_of, time_text
from tests.contract.source_tree import ROOT
from tests.unit.traces.samples_of_traces import KEY, OTHER_KEY, START, a_chain, a_seal, a_trace

# proto/README.md shows the same trace: a change here breaks what everybody has exported.
KNOWN = Trace(
    id="1f6d3f34-6a35-4d0b-9f0e-6f7f8a3c2b10",
    project_id="lab",
    time=datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=UTC),
    name="deleteMemeber",
    resource_type="member",
    resource_id="7d0e1f7a-7e39-4a5e-8a3d-0d8b5cf0f2a1",
    resource_name="Übung \u6d4b",
    outcome=TraceOutcome.DENIED,
    reason="PERMISSION_DENIED",
    message='a "quoted" \\ text',
    caller_kind="api_token",
    caller_id="ann",
    token_id="0a1b2c3d-0000-4000-8000-000000000000",
    peer="ipv4:192.0.2.7:4711",
    method="imsd.v1.MemberService/RemoveMembers",
    action="ims:images:share",
    call_id="0123456789ab",
    request_id="r-1",
    job_id="",
    details={"member_project_ids": "b,c", "image_ids": "7d0e1f7a-7e39-4a5e-8a3d-0d8b5cf0f2a1"},
)
KNOWN_HASH = "b79d1e54c18701f151caa799017a4bd4278e752a26c690a83e42a3a3d92b937d"


def test_the_hash_of_a_known_trace_is_what_it_always_was() -> None:
    assert KNOWN.chained(1, GENESIS).hash == KNOWN_HASH


def test_the_documentation_shows_the_known_trace_as_it_is_hashed() -> None:
    page = (ROOT / "proto" / "README.md").read_text()
    covered = {
        name: value for name, value in KNOWN.chained(1, GENESIS).fields().items() if "hash" not in name
    }
    assert canonical(covered).decode() in page
    assert f"`{KNOWN_HASH}`" in page


def test_the_canonical_form_is_that_of_rfc_8785() -> None:
    assert canonical({"b": 1, "a": {"d": "é\u6d4b", "c": '"\\\n\u0001'}}) == (
        '{"a":{"c":"\\"\\\\\\n\\u0001","d":"é\u6d4b"},"b":1}'.encode()
    )


def test_the_hash_is_of_the_canonical_form_and_the_hash_before() -> None:
    trace = a_trace().chained(7, "ab" * 32)
    covered = {name: value for name, value in trace.fields().items() if "hash" not in name}
    text = json.dumps(covered, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "ab" * 32
    assert trace.hash == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(field.name, "x") for field in fields(Trace) if field.type == "str" and field.name != "hash"],
        ("time", START + timedelta(microseconds=1)),
        ("sequence", 8),
        ("outcome", TraceOutcome.FAILED),
        ("details", {"update_mask": "names"}),
        ("details", {}),
    ],
)
def test_a_hash_covers_every_field(name: str, value: Any) -> None:
    trace = a_trace().chained(7, GENESIS)
    changed = replace(trace, **{name: value})
    assert hash_of(changed.fields(), changed.previous_hash) != trace.hash


def test_everything_of_a_trace_is_exported() -> None:
    assert set(a_trace().fields()) == {field.name for field in fields(Trace)} | {"service"}


def test_times_are_utc_with_six_digits_and_come_back() -> None:
    here = datetime(2026, 5, 1, 14, 0, 0, 5, tzinfo=timezone(timedelta(hours=2)))
    assert time_text(here) == "2026-05-01T12:00:00.000005Z"
    assert time_of(time_text(here)) == here


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("project_id", "other"),
        ("sequence", 3),
        ("hash", "0" * 64),
        ("sealed_at", START + timedelta(microseconds=1)),
        ("mac", "0" * 64),
        ("mac", "ä"),
    ],
)
def test_a_seal_is_of_one_place_of_one_chain(name: str, value: Any) -> None:
    seal = a_seal(a_chain(2)[-1])
    assert KEY.holds(seal)
    assert not KEY.holds(replace(seal, **{name: value}))


def test_another_key_makes_other_seals() -> None:
    seal = a_seal(a_chain(1)[0])
    assert not OTHER_KEY.holds(seal)
    assert KEY.id != OTHER_KEY.id
