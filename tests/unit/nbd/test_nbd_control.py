"""The control socket: lines of JSON from the daemon, and from who is none."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import stat
from collections.abc import AsyncIterator
from typing import Any

import pytest

from imsd.nbd import control
from imsd.nbd.control import Control
from tests.unit.nbd.block_world import DATA_KEY, IMAGE_ID, BlockWorld, cipher, mixed_disk
from tests.unit.nbd.raw_client import reading

DISK = mixed_disk()
CONTENT = DISK.content()
SIZE = len(CONTENT)


class Caller:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def say(self, line: bytes) -> dict[str, Any]:
        self.writer.write(line + b"\n")
        async with asyncio.timeout(30):
            answer: dict[str, Any] = json.loads(await self.reader.readline())
        return answer

    async def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        return await self.say(json.dumps({"op": op, **fields}).encode())

    async def refused(self, op: str, **fields: Any) -> str:
        """The reason."""
        answer = await self.ask(op, **fields)
        assert answer["ok"] is False, answer
        assert answer["error"]["message"]
        reason: str = answer["error"]["reason"]
        return reason

    async def is_cut_off(self) -> bool:
        async with asyncio.timeout(30):
            return await self.reader.read() == b""


@pytest.fixture
async def path(world: BlockWorld) -> AsyncIterator[str]:
    served = Control(world.attachments, "1.2.3")
    served.listen(world.folder / "control.sock")
    yield str(world.folder / "control.sock")
    await served.close()


@pytest.fixture
async def caller(path: str) -> AsyncIterator[Caller]:
    reader, writer = await asyncio.open_unix_connection(path)
    yield Caller(reader, writer)
    writer.close()


async def told(world: BlockWorld, attachment_id: str = "a1", **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "attachment_id": attachment_id,
        "export_name": "disk",
        "store": "main",
        "manifest_id": await world.put(DISK),
        "size_bytes": SIZE,
    } | changes
    return {"digest": world.digests.get(fields["manifest_id"])} | fields


async def test_only_its_owner_may_use_it(path: str) -> None:
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


async def test_hello_tells_version_and_instance(caller: Caller) -> None:
    answer = await caller.ask("hello", id="x-1")
    assert (answer["ok"], answer["version"], answer["release"], answer["id"]) == (True, 2, "1.2.3", "x-1")
    assert answer["instance"] == (await caller.ask("hello"))["instance"]
    assert answer["pid"] == os.getpid()


async def test_a_disk_is_attached_shown_and_detached(world: BlockWorld, caller: Caller) -> None:
    fields = await told(world)
    answer = await caller.ask("attach", **fields)
    assert answer == {"ok": True, "socket": world.socket(), "state": "ready"}
    assert await caller.ask("attach", **fields) == answer
    async with reading(answer["socket"]) as client:
        assert await client.read(0, SIZE) == CONTENT
        shown = await caller.ask("status", attachment_id="a1")
        assert (shown["clients"], shown["read_bytes"], shown["requests"]) == (1, SIZE, 1)
        assert shown["fetched_bytes"] > 0
        assert await caller.refused("detach", attachment_id="a1") == "FAILED_PRECONDITION"
        assert (await caller.ask("detach", attachment_id="a1", force=True))["clients"] == 1
    assert await caller.refused("status", attachment_id="a1") == "NOT_FOUND"
    assert await caller.refused("detach", attachment_id="a1") == "NOT_FOUND"


async def test_an_encrypted_disk_comes_with_its_key(
    world: BlockWorld, caller: Caller, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest_id = await world.put(DISK, cipher=cipher())
    key = base64.b64encode(DATA_KEY).decode()
    fields = await told(world, manifest_id=manifest_id, binding=IMAGE_ID)
    assert await caller.refused("attach", **fields) == "FAILED_PRECONDITION"
    for wrong in (key[:-4], key + "AAAA", "", "nonsense!", 5, None, [key]):
        assert await caller.refused("attach", **fields, data_key=wrong) in (
            "INVALID_REQUEST",
            "FAILED_PRECONDITION",
        )
    assert await caller.refused("attach", **{**fields, "binding": ""}, data_key=key) == "INVALID_REQUEST"
    other = base64.b64encode(bytes(32)).decode()
    assert await caller.refused("attach", **fields, data_key=other) == "KEY_MISMATCH"
    answer = await caller.ask("attach", **fields, data_key=key)
    async with reading(answer["socket"]) as client:
        assert await client.read(0, SIZE) == CONTENT
    assert (await caller.ask("status", attachment_id="a1"))["is_encrypted"] is True
    assert key not in json.dumps(await caller.ask("list"))
    assert key not in "".join(capfd.readouterr())


async def test_lists_come_in_pages(world: BlockWorld, caller: Caller) -> None:
    manifest_id = await world.put(DISK)
    for number in range(7):
        await caller.ask("attach", **await told(world, f"a{number}", manifest_id=manifest_id))
    found, after = [], ""
    while True:
        page = await caller.ask("list", after=after, page_size=3)
        assert len(page["attachments"]) <= 3
        found += [each["attachment_id"] for each in page["attachments"]]
        after = page["next"]
        if not after:
            break
    assert found == [f"a{number}" for number in range(7)]


async def test_the_trace_goes_out_and_another_comes_in(world: BlockWorld, caller: Caller) -> None:
    await caller.ask("attach", **await told(world))
    async with reading(world.socket()) as client:
        await client.read(9 << 20, 4096)
        await client.read(0, 4096)
    answer = await caller.ask("trace", attachment_id="a1")
    assert answer["entries"] == [[9 << 20, 128 << 10], [0, 128 << 10]]
    assert (await caller.ask("trace", attachment_id="a1", first=1))["entries"] == [[0, 128 << 10]]
    given = [[1 << 20, 1 << 20], [10 << 20, 512]]
    assert (await caller.ask("set_trace", attachment_id="a1", entries=given))["total"] == 2
    assert (await caller.ask("set_trace", attachment_id="a1", entries=given, append=True))["total"] >= 2
    for wrong in (
        [[0]],
        [[0, 0]],
        [[SIZE, 1]],
        [[-1, 5]],
        ["x"],
        [[0, 1.5]],
        [[True, 1]],
        "x",
        [[0, 1 << 70]],
    ):
        assert await caller.refused("set_trace", attachment_id="a1", entries=wrong) == "INVALID_REQUEST"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attachment_id", "../x"),
        ("attachment_id", ""),
        ("attachment_id", "x" * 65),
        ("attachment_id", 5),
        ("export_name", "x" * 256),
        ("export_name", "a\nb"),
        ("export_name", "\ud800"),
        ("store", "../etc"),
        ("manifest_id", "../../secret"),
        ("manifest_id", "A" * 32),
        ("size_bytes", 0),
        ("size_bytes", -1),
        ("size_bytes", 1 << 61),
        ("size_bytes", "5"),
        ("size_bytes", True),
        ("digest", "b3t:"),
        ("digest", "sha256:" + "0" * 64),
        ("digest", "b3t:" + "F" * 64),
        ("digest", "b3t:" + "f" * 65),
        ("digest", 5),
        ("binding", "../x"),
        ("colour", "red"),
    ],
)
async def test_a_wrong_field_is_named(world: BlockWorld, caller: Caller, field: str, value: Any) -> None:
    answer = await caller.ask("attach", **await told(world) | {field: value})
    assert answer["error"]["reason"] == "INVALID_REQUEST"
    assert answer["error"]["field"] == field


@pytest.mark.parametrize(
    "field", ["attachment_id", "export_name", "store", "manifest_id", "size_bytes", "digest"]
)
async def test_a_missing_field_is_named(world: BlockWorld, caller: Caller, field: str) -> None:
    fields = await told(world)
    del fields[field]
    assert (await caller.ask("attach", **fields))["error"]["field"] == field


async def test_wrong_messages_are_answered(caller: Caller) -> None:
    for fields in ({"op": "nothing"}, {"op": 5}, {}, {"op": "hello", "x": 1}, {"op": "hello", "id": 5}):
        answer = await caller.say(json.dumps(fields).encode())
        assert answer["error"]["reason"] == "INVALID_REQUEST"
    for op, fields in (
        ("list", {"page_size": 0}),
        ("list", {"page_size": 101}),
        ("list", {"after": 5}),
        ("trace", {"attachment_id": 5}),
        ("detach", {"attachment_id": "a1", "force": "yes"}),
    ):
        assert await caller.refused(op, **fields) == "INVALID_REQUEST"
    assert (await caller.ask("hello"))["ok"]


@pytest.mark.parametrize(
    "line",
    [b"", b"x", b"[]", b"5", b"{", b"\xff\xfe", b"[" * 60_000, b'{"op": "' + b"x" * 70_000 + b'"}'],
)
async def test_what_is_no_message_ends_the_connection(caller: Caller, line: bytes) -> None:
    answer = await caller.say(line)
    assert answer["error"]["reason"] == "INVALID_REQUEST"
    assert await caller.is_cut_off()


async def test_a_crowd_of_callers_is_bounded(path: str) -> None:
    crowd = [await asyncio.open_unix_connection(path) for _ in range(control.MAX_CONNECTIONS + 10)]
    await asyncio.sleep(0.1)
    for reader, writer in crowd[: control.MAX_CONNECTIONS]:
        assert (await Caller(reader, writer).ask("hello"))["ok"]
    for reader, _ in crowd[control.MAX_CONNECTIONS :]:
        assert await reader.read() == b""
    for _, writer in crowd:
        writer.close()


async def test_a_caller_that_leaves_in_the_middle_harms_nobody(path: str, caller: Caller) -> None:
    for said in (b'{"op": "he', b'{"op": "hello"}\n', b'{"op": "hello"}\n' * 100):
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(said)
        writer.close()
    assert (await caller.ask("hello"))["ok"]
