"""Each kind of fault does what it says, when it should."""

from __future__ import annotations

import asyncio

import pytest

from imsd.contract import BlobStore, ByteRange, LimitExceeded, NotFound, Unavailable, blob_id
from imsd.testing.faulty_store import Call, Fault, FaultKind, FaultyStore
from imsd.testing.memory_store import MemoryStore

PACK = blob_id("packs/0")
MANIFEST = blob_id("manifests/0")


async def put(store: BlobStore, blob: str = PACK, content: bytes = b"content") -> None:
    async with store.begin(blob_id(blob)) as ingest:
        await ingest.write([content])
        await ingest.commit()


async def whole(store: BlobStore, blob: str = PACK) -> bytes:
    return (await store.read(blob_id(blob), [ByteRange(0, 7)]))[0]


async def test_before_means_that_nothing_happened() -> None:
    store = FaultyStore(MemoryStore(), Fault(call=Call.COMMIT, kind=FaultKind.RAISE_BEFORE))
    with pytest.raises(Unavailable):
        await put(store)
    with pytest.raises(NotFound):
        await store.stat(PACK)
    await put(store)
    assert await whole(store) == b"content"


async def test_after_means_that_it_happened() -> None:
    store = FaultyStore(MemoryStore(), Fault(call=Call.COMMIT, kind=FaultKind.RAISE_AFTER))
    with pytest.raises(Unavailable):
        await put(store)
    assert await whole(store) == b"content"


async def test_faults_choose_by_prefix_and_count() -> None:
    store = FaultyStore(MemoryStore())
    store.add(Fault(call=Call.WRITE, kind=FaultKind.RAISE_BEFORE, prefix="packs/", skip=1, times=2))
    await put(store, "packs/1")
    for n in (2, 3):
        await put(store, f"manifests/{n}")
        with pytest.raises(Unavailable):
            await put(store, f"packs/{n}")
    await put(store, "packs/4")
    assert [stored.id async for stored in store.list("packs/")] == ["packs/1", "packs/4"]
    assert store.calls[Call.WRITE] == 6
    assert store.calls[Call.COMMIT] == 4


async def test_a_fault_may_last_until_the_store_is_healed() -> None:
    error = LimitExceeded("full", reason="CAPACITY_EXHAUSTED")
    store = FaultyStore(MemoryStore())
    store.add(Fault(call=Call.WRITE, kind=FaultKind.RAISE_BEFORE, times=None, error=lambda: error))
    for _ in range(3):
        with pytest.raises(LimitExceeded):
            await put(store)
    store.heal()
    await put(store)
    assert await whole(store) == b"content"


@pytest.mark.parametrize("call", [Call.BEGIN, Call.STAT, Call.LIST, Call.DELETE, Call.USAGE, Call.READ])
@pytest.mark.parametrize("kind", [FaultKind.RAISE_BEFORE, FaultKind.RAISE_AFTER])
async def test_every_call_can_fail(call: Call, kind: FaultKind) -> None:
    store = FaultyStore(MemoryStore())
    await put(store, MANIFEST)
    await put(store)
    store.add(Fault(call=call, kind=kind))

    async def run() -> None:
        match call:
            case Call.BEGIN:
                async with store.begin(blob_id("other")):
                    pass
            case Call.STAT:
                await store.stat(PACK)
            case Call.LIST:
                assert len([stored async for stored in store.list()]) == 2
            case Call.DELETE:
                await store.delete(PACK)
            case Call.USAGE:
                await store.usage()
            case _:
                await whole(store)

    with pytest.raises(Unavailable):
        await run()
    left = [stored.id async for stored in store.list()]
    was_deleted = call is Call.DELETE and kind is FaultKind.RAISE_AFTER
    assert left == ([MANIFEST] if was_deleted else [MANIFEST, PACK])


async def test_reads_can_be_short_and_wrong() -> None:
    store = FaultyStore(MemoryStore())
    await put(store)
    store.add(Fault(call=Call.READ, kind=FaultKind.SHORT_READ))
    assert await whole(store) == b"conten"
    store.add(Fault(call=Call.READ, kind=FaultKind.CORRUPT))
    assert await whole(store) == b"bontent"
    assert await whole(store) == b"content"


async def test_what_is_written_can_be_corrupted_on_its_way() -> None:
    store = FaultyStore(MemoryStore(), Fault(call=Call.WRITE, kind=FaultKind.CORRUPT))
    await put(store)
    assert await whole(store) == b"bontent"


async def test_a_call_hangs_until_it_is_released_or_cancelled() -> None:
    store = FaultyStore(MemoryStore(), Fault(call=Call.WRITE, kind=FaultKind.HANG, times=2))
    first, second = asyncio.create_task(put(store, "a")), asyncio.create_task(put(store, "b"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert store.hanging == 2
    first.cancel()
    await asyncio.wait([first])
    assert store.hanging == 1
    store.release()
    await second
    assert [stored.id async for stored in store.list()] == ["b"]
