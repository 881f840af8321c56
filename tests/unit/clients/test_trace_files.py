"""Files of exported traces: hostile ones, and going on with one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from ims_client import ClientError, LocalFileFailed
from imsctl.trace_file import Entry, appending, check_file, line_of

from imsd.grpc_server.convert_trace import seal_to_pb, trace_to_pb
from tests.unit.traces.samples_of_traces import KEY, OTHER_KEY, a_chain, a_seal, rechained


@pytest.mark.parametrize(
    "content",
    [
        b"nonsense\n",
        b"[1]\n",
        b"7\n",
        b"{}\n",
        b'{"sequence": "1"}\n',
        b'{"sequence": true, "mac": ""}\n',
        b'{"mac": 1}\n',
        b'{"sequence": 1, "mac": "", "hash": "", "project_id": "", "sealed_at": "x", "key_id": ""}\n',
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        b"x" * (2 << 20),
        b'{"sequence": 1',
    ],
)
def test_what_is_no_export_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "traces.jsonl"
    file.write_bytes(content)
    with pytest.raises(LocalFileFailed, match="line 1 of"):
        check_file(file, None)


@pytest.mark.parametrize(
    "change",
    [
        {"details": None},
        {"details": {"up_to": 3}},
        {"details": []},
        {"time": "now"},
        {"time": "9999999-01-01T00:00:00.000000Z"},
        {"previous_hash": None},
        {"sequence": 1.5},
        {"name": ["removeTraces"]},
        {"caller_id": "\ud800"},
        {"name": "removeTraces", "details": {"up_to": "9" * 100_000}},
    ],
)
def test_a_trace_with_a_field_of_another_kind_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    file = tmp_path / "traces.jsonl"
    file.write_text(json.dumps(a_chain(1)[0].fields() | change) + "\n")
    with pytest.raises(LocalFileFailed, match="neither a trace nor a seal"):
        check_file(file, None)


@pytest.mark.parametrize("change", [{"more": "x"}, {"sequence": 10**30}, {"caller_id": 7}, {"service": None}])
def test_a_trace_with_other_content_was_altered(tmp_path: Path, change: dict[str, Any]) -> None:
    file = tmp_path / "traces.jsonl"
    file.write_text(json.dumps(a_chain(1)[0].fields() | change) + "\n")
    assert not check_file(file, None).is_intact


def test_a_file_of_two_projects_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    both = [*a_chain(1), *a_chain(1, project_id="other")]
    file.write_bytes(b"".join(line_of(trace_to_pb(trace)) for trace in both))
    with pytest.raises(LocalFileFailed, match=r"line 2 of .* of another project"):
        check_file(file, None)


def test_seals_are_proved_with_the_key(tmp_path: Path) -> None:
    chain = a_chain(3)
    file = tmp_path / "traces.jsonl"
    entries: list[Entry] = [*map(trace_to_pb, chain), seal_to_pb(a_seal(chain[-1]))]
    file.write_bytes(b"".join(line_of(entry) for entry in entries))
    assert check_file(file, KEY).sealed_sequence == 3
    assert check_file(file, None).is_intact
    assert not check_file(file, OTHER_KEY).is_intact
    assert file.read_text().splitlines()[0] == json.dumps(
        chain[0].fields() | {"details": dict(sorted(chain[0].details.items()))}, ensure_ascii=False
    )


async def stream(entries: Sequence[Entry]) -> AsyncIterator[Entry]:
    for entry in entries:
        yield entry


async def go_on(file: Path, *entries: Any) -> int:
    with appending(file) as opened:
        await opened.append(stream([seal_to_pb(e) if hasattr(e, "mac") else trace_to_pb(e) for e in entries]))
        return opened.added


async def test_a_file_grows_by_what_is_new(tmp_path: Path) -> None:
    file, chain = tmp_path / "traces.jsonl", a_chain(5)
    assert await go_on(file, *chain[:2]) == 2
    assert await go_on(file, chain[1], a_seal(chain[1])) == 0  # it was sealed meanwhile
    assert await go_on(file, chain[1], a_seal(chain[1]), chain[2]) == 1
    with file.open("ab") as cut:
        cut.write(b'{"id": "ha')
    assert await go_on(file, *chain[2:], a_seal(chain[4])) == 2
    check = check_file(file, KEY)
    assert (check.problems, check.traces_checked, check.seals_checked) == ([], 5, 2)


async def test_a_file_may_begin_after_a_seal(tmp_path: Path) -> None:
    file, chain = tmp_path / "traces.jsonl", a_chain(4)
    assert await go_on(file, a_seal(chain[1]), *chain[2:]) == 2
    assert await go_on(file, chain[3]) == 0
    assert check_file(file, KEY).is_intact


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        (lambda chain: [], "its chain ends before trace 3"),
        (lambda chain: [chain[1]], "trace 2 comes again"),
        (lambda chain: [rechained(chain[::-1])[2]], "trace 3 is another one there"),
        (lambda chain: [chain[4]], "what came before trace 5 is gone there"),
        (lambda chain: [rechained(chain[::-1])[3]], "trace 4 does not follow"),
    ],
)
async def test_a_file_does_not_grow_by_another_chain(tmp_path: Path, entries: Any, why: str) -> None:
    file, chain = tmp_path / "traces.jsonl", a_chain(5)
    await go_on(file, *chain[:3])
    before = file.read_bytes()
    with pytest.raises(ClientError, match=why) as caught:
        await go_on(file, *entries(chain))
    assert caught.value.reason == "DATA_LOSS"
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [b"", b"nonsense\n", line_of(seal_to_pb(a_seal(a_chain(1)[0]))), line_of(trace_to_pb(a_chain(1)[0]))],
)
def test_a_file_that_is_none_is_left_alone(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "traces.jsonl"
    file.write_bytes(content + b"and more")
    with pytest.raises(LocalFileFailed), appending(file):
        pass
    assert file.read_bytes() == content + b"and more"


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no" / "folder"):
        with pytest.raises(LocalFileFailed, match="cannot write"), appending(path):
            pass


def test_a_time_of_the_wire_is_told_to_the_microsecond() -> None:
    assert json.loads(line_of(trace_to_pb(a_chain(1)[0])))["time"] == "2026-05-01T12:00:01.123456Z"
