"""The beginning of a connection, as the NBD protocol has it, and as it should not be."""

from __future__ import annotations

import asyncio
import random
import struct

import pytest

from imsd.nbd import handshake
from tests.unit.nbd.block_world import BlockWorld, mixed_disk
from tests.unit.nbd.raw_client import (
    ABORT,
    ACK,
    GO,
    INFO,
    INFO_REPLY,
    INVALID,
    LIST,
    LIST_META,
    META,
    SERVER,
    SET_META,
    STRUCTURED,
    TOO_BIG,
    UNKNOWN,
    UNSUP,
    RawClient,
    connected,
    named,
    reading,
    request,
    wanted,
)

SIZE = 24 << 20
READ_ONLY_MULTI_CACHE = 1 | 2 | 1 << 8 | 1 << 10
DF_TOO = 1 << 7

pytestmark = pytest.mark.usefixtures("attached")


@pytest.fixture
async def attached(world: BlockWorld) -> None:
    await world.attach(mixed_disk(SIZE))


async def kinds(client: RawClient, option: int, content: bytes = b"") -> list[int]:
    return [reply.kind for reply in await client.option(option, content)]


async def test_the_server_is_fixed_newstyle_without_zeroes(world: BlockWorld) -> None:
    async with connected(world.socket()) as client:
        assert await client.greet() == 3


async def test_the_disk_is_listed_by_its_name(world: BlockWorld) -> None:
    async with connected(world.socket()) as client:
        await client.greet()
        replies = await client.option(LIST)
        assert [reply.kind for reply in replies] == [SERVER, ACK]
        assert replies[0].content == struct.pack(">I", 4) + b"disk"


@pytest.mark.parametrize("option", [INFO, GO])
@pytest.mark.parametrize("name", ["", "disk"])
async def test_a_client_is_told_size_flags_and_block_sizes(world: BlockWorld, option: int, name: str) -> None:
    async with connected(world.socket()) as client:
        await client.greet()
        *told, last = await client.option(option, wanted(name, 3, 1))
        assert last.kind == ACK
        assert {reply.kind for reply in told} == {INFO_REPLY}
        assert [reply.content for reply in told] == [
            struct.pack(">HQH", 0, SIZE, READ_ONLY_MULTI_CACHE),
            struct.pack(">HIII", 3, 1, 64 << 10, 32 << 20),
            struct.pack(">H", 1) + b"disk",
        ]


async def test_unfragmented_reads_are_offered_with_structured_replies_only(world: BlockWorld) -> None:
    async with reading(world.socket()) as client:
        assert client.flags == READ_ONLY_MULTI_CACHE | DF_TOO


@pytest.mark.parametrize(("flags", "padding"), [(3, 0), (1, 124)])
async def test_the_old_way_to_choose_a_disk_works(world: BlockWorld, flags: int, padding: int) -> None:
    async with connected(world.socket()) as client:
        await client.greet(flags)
        client.writer.write(struct.pack(">8sII", b"IHAVEOPT", 1, 4) + b"disk")
        assert await client.exactly(10 + padding) == struct.pack(">QH", SIZE, READ_ONLY_MULTI_CACHE) + bytes(
            padding
        )
        assert len(await client.read(0, 4096)) == 4096


async def test_the_old_way_has_no_answer_for_an_unknown_name(world: BlockWorld) -> None:
    async with connected(world.socket()) as client:
        await client.greet()
        client.writer.write(struct.pack(">8sII", b"IHAVEOPT", 1, 5) + b"other")
        assert await client.is_cut_off()


async def test_a_client_may_leave(world: BlockWorld) -> None:
    async with connected(world.socket()) as client:
        await client.greet()
        assert await kinds(client, ABORT) == [ACK]
        assert await client.is_cut_off()


@pytest.mark.parametrize("option", [5, 4, 11, 0, 77, 0xFFFFFFFF])
async def test_an_option_that_is_not_known_is_said_to_be(world: BlockWorld, option: int) -> None:
    async with connected(world.socket()) as client:
        await client.greet()
        assert await kinds(client, option, b"whatever") == [UNSUP]
        assert await kinds(client, LIST) == [SERVER, ACK]


async def test_metadata_contexts_are_found_and_chosen(world: BlockWorld) -> None:
    async with connected(world.socket()) as client:
        await client.greet()
        await client.option(STRUCTURED)
        for queries in ((), ("base:",), ("base:allocation",), ("qemu:dirty-bitmap:x", "base:allocation")):
            replies = await client.option(LIST_META, named("", *queries))
            assert [reply.kind for reply in replies] == [META, ACK]
            assert replies[0].content[4:] == b"base:allocation"
        assert await kinds(client, LIST_META, named("disk", "qemu:")) == [ACK]
        assert await kinds(client, SET_META, named("disk", "base:allocation")) == [META, ACK]
        assert await kinds(client, SET_META, named("disk")) == [ACK]


async def test_a_metadata_context_needs_structured_replies_and_a_known_disk(world: BlockWorld) -> None:
    async with connected(world.socket()) as client:
        await client.greet()
        assert await kinds(client, SET_META, named("disk", "base:allocation")) == [INVALID]
        await client.option(STRUCTURED)
        assert await kinds(client, SET_META, named("other", "base:allocation")) == [UNKNOWN]
        assert await kinds(client, GO, wanted("other")) == [UNKNOWN]


@pytest.mark.parametrize(
    ("option", "content"),
    [
        (LIST, b"x"),
        (STRUCTURED, b"x"),
        (GO, b""),
        (GO, b"\0\0\0\4di"),
        (GO, b"\xff\xff\xff\xffdisk\0\0"),
        (GO, wanted("disk") + b"x"),
        (GO, struct.pack(">I4sH", 4, b"disk", 3)),
        (SET_META, b"\0\0"),
        (SET_META, named("disk", "base:allocation")[:-1]),
        (SET_META, named("disk", "base:allocation") + b"x"),
        (SET_META, struct.pack(">I4sI", 4, b"disk", 0xFFFFFFFF)),
        (LIST_META, struct.pack(">I4sI", 4, b"disk", 5)),
    ],
)
async def test_an_option_that_is_malformed_is_refused_and_the_client_goes_on(
    world: BlockWorld, option: int, content: bytes
) -> None:
    async with connected(world.socket()) as client:
        await client.greet()
        if option != STRUCTURED:
            await client.option(STRUCTURED)
        assert await kinds(client, option, content) == [INVALID]
        assert (await kinds(client, GO, wanted("disk")))[-1] == ACK


async def test_a_long_option_is_skipped_and_a_very_long_one_ends_it(world: BlockWorld) -> None:
    async with connected(world.socket()) as client:
        await client.greet()
        assert await kinds(client, LIST, bytes(200_000)) == [TOO_BIG]
        assert await kinds(client, LIST) == [SERVER, ACK]
        client.writer.write(struct.pack(">8sII", b"IHAVEOPT", LIST, 0xFFFFFFFF))
        assert await client.is_cut_off()


@pytest.mark.parametrize("flags", [4, 0x80000000, 0xFFFFFFFF])
async def test_a_client_with_flags_that_were_not_offered_is_cut_off(world: BlockWorld, flags: int) -> None:
    async with connected(world.socket()) as client:
        await client.greet(flags)
        assert await client.is_cut_off()


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n" * 10, bytes(64), b"\xff" * 64])
async def test_somebody_who_speaks_something_else_is_cut_off(world: BlockWorld, said: bytes) -> None:
    async with connected(world.socket()) as client:
        client.writer.write(b"\0\0\0\3" + said)
        assert await client.is_cut_off()


async def test_a_flood_of_options_ends(world: BlockWorld) -> None:
    async with connected(world.socket()) as client:
        await client.greet()
        client.writer.write(struct.pack(">8sII", b"IHAVEOPT", LIST, 0) * 1000)
        assert await client.is_cut_off()


async def test_whoever_says_nothing_is_cut_off(world: BlockWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "HANDSHAKE_SECONDS", 0.05)
    async with connected(world.socket()) as client:
        assert await client.is_cut_off()
    async with connected(world.socket()) as client:
        await client.greet()
        client.writer.write(b"IHAVE")
        assert await client.is_cut_off()


async def test_garbage_at_any_point_disturbs_nobody_else(world: BlockWorld) -> None:
    """A sound beginning, cut anywhere, with noise behind it."""
    generator = random.Random(7)
    sound = b"\0\0\0\3" + struct.pack(">8sII", b"IHAVEOPT", STRUCTURED, 0)
    sound += struct.pack(">8sII", b"IHAVEOPT", GO, len(wanted("disk"))) + wanted("disk")
    sound += request(0, 1, 0, 4096) + request(7, 2, 0, SIZE) + request(1, 3, 0, 100) + bytes(100)
    async with reading(world.socket()) as other:
        expected = await other.read(0, 65536)
        for _ in range(60):
            said = bytearray(
                sound[: generator.randrange(len(sound))] + generator.randbytes(generator.randrange(80))
            )
            for _ in range(generator.randrange(3)):
                said[generator.randrange(len(said))] = generator.randrange(256)
            async with connected(world.socket()) as client:
                client.writer.write(said)
                client.writer.write_eof()
                assert await client.is_cut_off()
            assert await other.read(0, 65536) == expected
    await asyncio.sleep(0)
    assert world.attachments.get("a1").errors == 0
