"""Writing: what is visible, when, and what is left of an ingest that ends otherwise."""

from __future__ import annotations

import asyncio
import gc
import random
from datetime import UTC, datetime, timedelta

from imsd.contract import AlreadyExists, Buffer, ByteRange, DataLoss, Ingest, NotFound, StoredBlob

from .promise import (
    BLOB,
    MIB,
    NotOffered,
    Place,
    cancel_after,
    demand,
    demand_equal,
    refused,
)

# After so many turns of the loop a call is cancelled: at its start, in its middle, near its end.
TURNS = (0, 1, 2, 3, 5, 8)


async def what_was_written_is_read_back(place: Place) -> None:
    """What was written is read back."""
    await place.put(BLOB, b"boot", b" ", b"sector")
    demand_equal(await place.content(BLOB), place.kept(b"boot sector"), "what was read")


async def commit_and_stat_and_list_tell_the_same(place: Place) -> None:
    """The size, time and version that a commit tells are those of the blob, and its time is now."""
    before = datetime.now(UTC) - timedelta(minutes=2)  # another machine's clock may differ a little
    committed = await place.put(BLOB, b"boot sector")
    demand_equal(await place.stat(BLOB), committed, "stat")
    listed = [stored async for stored in place.store.list(place.prefix)]
    demand_equal(listed, [committed], "list")
    demand_equal((committed.id, committed.size_bytes), (place.id(BLOB), 11), "id and size")
    demand_equal(committed.modified_at.utcoffset(), timedelta(0), "the time zone")
    is_now = before < committed.modified_at < before + timedelta(minutes=4)
    demand(is_now, f"it says that it was committed at {committed.modified_at}: clocks differ by minutes")


async def an_ingest_is_invisible_until_committed(place: Place) -> None:
    """Nothing of a blob is seen before its commit, and all of it afterwards."""
    async with place.begin(BLOB) as ingest:
        await ingest.write([b"half an ima"])
        with refused(NotFound, what="stat before the commit"):
            await place.stat(BLOB)
        with refused(NotFound, what="a read before the commit"):
            await place.read(BLOB, [ByteRange(0, 1)])
        demand_equal(await place.ids(), [], "list before the commit")
        await ingest.commit()
        demand_equal(await place.ids(), [BLOB], "list after the commit")


async def leaving_an_ingest_without_commit_discards_it(place: Place) -> None:
    """A write that is left without commit leaves nothing."""
    async with place.begin(BLOB) as ingest:
        await ingest.write([b"half an ima"])
    demand_equal(await place.ids(), [], "list")
    await place.put(BLOB, b"whole")
    demand_equal(await place.content(BLOB), place.kept(b"whole"), "the blob that came after it")


async def an_exception_in_an_ingest_discards_it(place: Place) -> None:
    """A write that fails leaves nothing."""
    try:
        async with place.begin(BLOB) as ingest:
            await ingest.write([b"half an ima"])
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    demand_equal(await place.ids(), [], "list")


async def cancelling_an_ingest_discards_it(place: Place) -> None:
    """A write that is cancelled leaves nothing."""
    written = asyncio.Event()

    async def stall() -> None:
        async with place.begin(BLOB) as ingest:
            await ingest.write([b"half an ima"])
            written.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(stall())
    waiting = asyncio.create_task(written.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    await cancel_after(0, waiting)
    await cancel_after(0, task)
    if not task.cancelled() and (error := task.exception()):
        raise error
    demand(task.cancelled(), "the cancellation was lost")
    demand_equal(await place.ids(), [], "list")
    await place.put(BLOB, b"whole")


def _require_put_if_absent(place: Place) -> None:
    if not place.store.capabilities.put_if_absent:
        raise NotOffered("the store does not offer put_if_absent")


async def the_first_commit_wins(place: Place) -> None:
    """A commit replaces no blob that is there (put_if_absent)."""
    _require_put_if_absent(place)
    async with place.begin(BLOB) as late:
        await late.write([b"second"])
        await place.put(BLOB, b"first")
        with refused(AlreadyExists, what="the second commit under one id"):
            await late.commit()
    demand_equal(await place.content(BLOB), place.kept(b"first"), "the blob")


async def of_many_commits_under_one_id_exactly_one_wins(place: Place) -> None:
    """Of sixteen commits under one id at once exactly one wins (put_if_absent)."""
    _require_put_if_absent(place)
    contents = [bytes([number]) * (1000 + number) for number in range(16)]
    outcomes = await asyncio.gather(
        *(place.put(BLOB, content) for content in contents), return_exceptions=True
    )
    winners = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, StoredBlob)]
    others = [outcome for outcome in outcomes if not isinstance(outcome, StoredBlob | AlreadyExists)]
    demand(not others, f"a commit failed otherwise: {others[:1]}")
    demand_equal(len(winners), 1, "commits that won")
    demand_equal(await place.content(BLOB), place.kept(contents[winners[0]]), "the blob of the winner")


async def an_empty_blob_is_a_blob(place: Place) -> None:
    """An empty blob is a blob, which is found and listed."""
    demand_equal((await place.put(BLOB)).size_bytes, 0, "the size")
    demand_equal((await place.put("with-empty-writes", b"", b"")).size_bytes, 0, "the size")
    demand_equal((await place.stat(BLOB)).size_bytes, 0, "stat")
    demand_equal(await place.ids(), [BLOB, "with-empty-writes"], "list")
    with refused(DataLoss, what="a read of an empty blob"):
        await place.read(BLOB, [ByteRange(0, 1)])


async def many_buffers_of_every_kind_go_in_one_write(place: Place) -> None:
    """Thousands of small buffers go in one write, in their order."""
    content = random.Random(7).randbytes(3000)
    kinds = [bytes, bytearray, memoryview]
    buffers: list[Buffer] = [kinds[i % 3](content[i : i + 1]) for i in range(2999)]
    async with place.begin(BLOB) as ingest:
        await ingest.write([])
        await ingest.write([*buffers, b"", memoryview(content)[2999:]])
        await ingest.commit()
    demand_equal(await place.content(BLOB), place.kept(content), "what was read")


async def a_buffer_may_be_reused_when_write_returns(place: Place) -> None:
    """A buffer may be used again as soon as a write returns."""
    buffer = bytearray(256 << 10)
    async with place.begin(BLOB) as ingest:
        for number in range(8):
            buffer[:] = bytes([number]) * len(buffer)
            await ingest.write([memoryview(buffer)])
        buffer[:] = b"\xee" * len(buffer)
        await ingest.commit()
    expected = b"".join(bytes([number]) * len(buffer) for number in range(8))
    demand_equal(await place.content(BLOB), place.kept(expected), "what was read")


async def a_pack_of_64_mib_is_stored_in_many_writes(place: Place) -> None:
    """A blob of 64 MiB is stored in many writes, and read from its middle."""
    block, pack = random.Random(11).randbytes(MIB), "packs/0a/0a11"
    async with place.begin(pack) as ingest:
        for number in range(64):
            await ingest.write([bytes([number]) + block[1:]])
        stored = await ingest.commit()
    demand_equal(stored.size_bytes, 64 * MIB, "the size")
    starts = await place.read(pack, [ByteRange(number * MIB, 4) for number in range(64)])
    demand_equal(starts, [place.kept(bytes([n]) + block[1:4]) for n in range(64)], "the start of each MiB")
    (middle,) = await place.read(pack, [ByteRange(31 * MIB + 1, MIB - 1)])
    demand_equal(middle, place.kept(block[1:]), "a MiB in the middle")


async def many_ingests_run_at_once(place: Place) -> None:
    """Thirty-two blobs are written at once."""
    contents = {f"packs/{n:02x}/{n}": bytes([n]) * (64 << 10) for n in range(32)}
    await asyncio.gather(*(place.put(blob, *[piece] * 4) for blob, piece in contents.items()))
    demand_equal(await place.ids(), sorted(contents), "list")
    for blob, piece in contents.items():
        demand_equal(await place.content(blob), place.kept(piece * 4), f"blob {blob}")


async def a_cancelled_write_lets_go_of_the_buffer(place: Place) -> None:
    """A write that is cancelled looks at its buffer no more, in no thread."""
    for turns in TURNS:
        buffer = bytearray(4 * MIB)

        async def write(ingest: Ingest, buffer: bytearray = buffer) -> None:
            await ingest.write([buffer])

        async with place.begin(BLOB) as ingest:
            task = asyncio.create_task(write(ingest))
            await cancel_after(turns, task)
            del task
        del write
        demand(_is_let_go(buffer), "something still looks at the buffer of a write that was cancelled")
        demand_equal(await place.ids(), [], "list")
        await place.put(BLOB, b"whole")
        demand_equal(await place.content(BLOB), place.kept(b"whole"), "the blob that came after it")
        await place.delete(BLOB)


def _is_let_go(buffer: bytearray) -> bool:
    """Whether nobody, in any thread, looks at it any more."""
    for generation in (1, 2):
        gc.collect(generation)  # of all generations only if need be: in a large process that takes seconds
        try:
            buffer.clear()
        except BufferError:
            continue
        return True
    return False


async def a_cancelled_commit_leaves_all_or_nothing(place: Place) -> None:
    """A commit that is cancelled leaves the whole blob or nothing."""

    async def commit(ingest: Ingest) -> None:
        await ingest.commit()

    for turns in TURNS:
        async with place.begin(BLOB) as ingest:
            await ingest.write([b"whole"])
            await cancel_after(turns, asyncio.create_task(commit(ingest)))
        visible = await place.ids()
        demand(visible in ([], [BLOB]), f"list: {visible}")
        if not visible:
            await place.put(BLOB, b"whole")
        demand_equal(await place.content(BLOB), place.kept(b"whole"), "the blob")
        await place.delete(BLOB)


async def ids_at_the_limits_are_ids(place: Place) -> None:
    """Ids of all characters that are allowed, and of 255 of them, are told apart."""
    longest = place.longest
    many = "/".join("a" * ((longest + 1) // 2))
    half = longest // 2
    two = f"{'a' * (half - 1)}/{'b' * (longest - half)}"
    for blob in ("0", "_", "a..b", "Z", "a" * longest, many, two, "0/-/_.-", "De/Bian.Q"):
        stored = await place.put(blob, b"content")
        demand_equal(await place.stat(blob), stored, f"stat of {blob[:20]}")
        demand_equal(await place.content(blob), place.kept(b"content"), f"the blob {blob[:20]}")
        demand_equal(await place.ids(), [blob], "list")
        await place.delete(blob)
        demand_equal(await place.ids(), [], "list after the deletion")
