"""The sweep of the chunk index, alone and in a race with those who find chunks."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import subprocess
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert, text

from imsd.chunks.index import Doomed, Holder
from imsd.contract import Conflict
from imsd.metadata import chunk_rows
from imsd.metadata.chunk_index import SqlChunkIndex
from imsd.metadata.database import Database, open_database
from imsd.metadata.tables import pack, pack_reference
from tests.unit.metadata.samples import (
    START,
    chunks_of,
    clock,
    count,
    digest,
    job_holder,
    new_id,
    pack_id,
)

PACK = pack_id(1)


@pytest.fixture
def index(database: Database) -> SqlChunkIndex:
    return SqlChunkIndex(database, clock)


async def commit(index: SqlChunkIndex, holder: Holder, pack: str, *numbers: int, store: str = "main") -> None:
    await index.begin_pack(holder, pack, store)
    await index.commit_pack(holder, "lab", pack, 4096, chunks_of(pack, *numbers))


async def state_of(database: Database, pack: str) -> str | None:
    async with database.reading() as c:
        return (await c.execute(text("SELECT state FROM pack WHERE id = :id"), {"id": pack})).scalar()


async def test_a_pack_left_behind_by_a_dead_writer_is_condemned(
    index: SqlChunkIndex, database: Database
) -> None:
    job = await job_holder(database)
    await index.begin_pack(job, PACK, "main")
    await index.begin_manifest(job, pack_id(2), "main")
    assert await index.condemn("main") == ([], [])
    await index.release(job)
    assert await index.condemn("main") == ([Doomed(pack_id(2), "main")], [Doomed(PACK, "main")])


async def test_a_sweep_is_of_one_store(index: SqlChunkIndex, database: Database) -> None:
    job = await job_holder(database)
    await commit(index, job, PACK, 1)
    await commit(index, job, pack_id(2), 2, store="other")
    await index.release(job)
    assert await index.condemn("other") == ([], [Doomed(pack_id(2), "other")])
    assert await state_of(database, PACK) == "live"


async def test_what_an_interrupted_sweep_condemned_comes_again_until_it_is_forgotten(
    index: SqlChunkIndex, database: Database
) -> None:
    job = await job_holder(database)
    await index.begin_manifest(job, pack_id(9), "main")
    await commit(index, job, PACK, 1)
    await index.release(job)
    doomed = [Doomed(pack_id(9), "main")], [Doomed(PACK, "main")]
    assert await index.condemn("main") == doomed
    assert await index.condemn("main") == doomed
    await index.forget([pack_id(9)], [PACK])
    await index.forget([pack_id(9)], [PACK])
    assert await index.condemn("main") == ([], [])
    assert await index.known([pack_id(9)], [PACK]) == (set(), set())


async def test_only_what_is_condemned_is_forgotten(index: SqlChunkIndex, database: Database) -> None:
    job = await job_holder(database)
    await commit(index, job, PACK, 1)
    await index.begin_manifest(job, pack_id(9), "main")
    await index.forget([pack_id(9)], [PACK])
    strangers = [pack_id(number) for number in range(1000, 3000)]
    known = await index.known([pack_id(9), *strangers], [PACK, *strangers])
    assert known == ({pack_id(9)}, {PACK})


async def test_a_sweep_takes_as_many_as_it_is_told(index: SqlChunkIndex, database: Database) -> None:
    job = await job_holder(database)
    for number in range(25):
        await commit(index, job, pack_id(number), number)
    await index.release(job)
    seen: set[str] = set()
    for expected in (10, 10, 5, 0):
        _, packs = await index.condemn("main", limit=10)
        assert len(packs) == expected
        await index.forget([], [doomed.id for doomed in packs])
        seen |= {doomed.id for doomed in packs}
    assert len(seen) == 25


async def test_a_digest_is_found_again_in_the_pack_that_replaced_a_condemned_one(
    index: SqlChunkIndex, database: Database
) -> None:
    first, second = await job_holder(database), await job_holder(database)
    await commit(index, first, PACK, 1)
    await index.release(first)
    await index.condemn("main")
    assert await index.find(second, "main", "lab", [digest(1)]) == {}
    await commit(index, second, pack_id(2), 1)
    (place,) = (await index.find(second, "main", "lab", [digest(1)])).values()
    assert place.pack_id == pack_id(2)


async def test_a_pack_condemned_in_the_middle_of_its_commit_takes_no_more_chunks(
    index: SqlChunkIndex, database: Database
) -> None:
    """A cancelled job is released while its last commit still runs."""
    job = await job_holder(database)
    await index.begin_pack(job, PACK, "main")
    committing = asyncio.create_task(index.commit_pack(job, "lab", PACK, 1, chunks_of(PACK, *range(16_000))))
    while await state_of(database, PACK) != "live":
        await asyncio.sleep(0.001)
    await index.release(job)
    await index.condemn("main")
    with pytest.raises(Conflict):
        await committing
    await index.forget([], [PACK])
    assert await count(database, "chunk") == 0


@pytest.mark.parametrize("delay", range(0, 40, 3))
async def test_a_pack_is_found_or_condemned_never_both(
    index: SqlChunkIndex, database: Database, delay: int
) -> None:
    """`find` against `condemn`, each a few steps of the event loop ahead of the other."""
    for first, second in itertools.permutations(["find", "condemn"]):
        pack = pack_id(random.getrandbits(60))
        writer, finder = await job_holder(database), await job_holder(database)
        await commit(index, writer, pack, 1)
        await index.release(writer)
        calls: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
            "find": partial(index.find, finder, "main", "lab", [digest(1)]),
            "condemn": partial(index.condemn, "main"),
        }
        one = asyncio.create_task(calls[first]())
        for _ in range(delay):
            await asyncio.sleep(0)
        other = asyncio.create_task(calls[second]())
        results: dict[str, Any] = dict(zip([first, second], await asyncio.gather(one, other), strict=True))
        was_found = digest(1) in results["find"]
        was_condemned = pack in {doomed.id for doomed in results["condemn"][1]}
        assert was_found is not was_condemned
        assert await state_of(database, pack) == ("live" if was_found else "condemned")
        await index.release(finder)
        await index.condemn("main")


async def test_a_pack_referenced_after_the_scan_is_not_condemned(
    index: SqlChunkIndex, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The candidates come from a snapshot; each is looked at again when it is condemned."""
    writer, finder = await job_holder(database), await job_holder(database)
    await commit(index, writer, PACK, 1)
    await commit(index, writer, pack_id(2), 2)
    await index.release(writer)
    condemn = chunk_rows.condemn

    def find_first(c: Connection, *args: Any) -> None:
        monkeypatch.undo()
        chunk_rows.find(c, finder, "main", "lab", [digest(1)])
        condemn(c, *args)

    monkeypatch.setattr(chunk_rows, "condemn", find_first)
    assert await index.condemn("main") == ([], [Doomed(pack_id(2), "main")])
    assert list(await index.find(finder, "main", "lab", [digest(1), digest(2)])) == [digest(1)]


async def test_jobs_that_come_and_go_while_a_sweep_runs_lose_nothing(
    index: SqlChunkIndex, database: Database
) -> None:
    """Every pack that a finder was given stays live until it lets go."""
    is_done = False

    async def sweep() -> None:
        while not is_done:
            _, packs = await index.condemn("main", limit=3)
            await index.forget([], [doomed.id for doomed in packs])

    async def work(seed: int) -> None:
        numbers = random.Random(seed)
        for turn in range(4):
            job = await job_holder(database)
            wanted = numbers.sample(range(30), 10)
            known = await index.find(job, "main", "lab", [digest(number) for number in wanted])
            missing = [number for number in wanted if digest(number) not in known]
            mine = pack_id(1000 * seed + turn + 1)
            await commit(index, job, mine, *missing)
            await asyncio.sleep(0)
            for held in {mine, *(place.pack_id for place in known.values())}:
                assert await state_of(database, held) == "live"
            await index.release(job)

    sweeping = asyncio.create_task(sweep())
    await asyncio.gather(*[work(seed) for seed in range(1, 7)])
    is_done = True
    await sweeping
    _, packs = await index.condemn("main")
    await index.forget([], [doomed.id for doomed in packs])
    async with database.reading() as c:
        for table in ("pack", "chunk", "pack_reference"):
            assert (await c.execute(text(f"SELECT count(*) FROM {table}"))).scalar() == 0


CRASH = """
import asyncio, os, sys
from imsd.chunks.index import Holder, HolderKind
from imsd.metadata.chunk_index import SqlChunkIndex
from imsd.metadata.database import open_database
from tests.unit.metadata.samples import chunks_of, clock, pack_id

async def main():
    url, job, fence = sys.argv[1:]
    async with open_database(url) as database:
        index = SqlChunkIndex(database, clock)
        holder = Holder(HolderKind.JOB, job, int(fence))
        await index.begin_pack(holder, pack_id(1), "main")
        committing = asyncio.create_task(
            index.commit_pack(holder, "lab", pack_id(1), 1, chunks_of(pack_id(1), *range(16_000)))
        )
        while True:
            await asyncio.sleep(0)
            if os.path.getsize(url[20:] + "-wal") > 1 << 20:
                os._exit(9)

asyncio.run(main())
"""


async def test_a_crash_in_the_middle_of_a_commit_leaves_nothing_wrong(
    sqlite_url: str, tmp_path: Path
) -> None:
    async with open_database(sqlite_url) as database:
        job = await job_holder(database)
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    killed = subprocess.run(  # noqa: ASYNC221 - nothing else runs
        [sys.executable, "-c", CRASH, sqlite_url, job.id, str(job.fence)], env=environment, check=False
    )
    assert killed.returncode == 9
    async with open_database(sqlite_url) as database:
        index = SqlChunkIndex(database, clock)
        chunks = chunks_of(pack_id(1), *range(16_000))
        hits: list[int] = []
        for start in range(0, 16_000, 4000):
            wanted = {digest(number): number for number in range(start, start + 4000)}
            for key, place in (await index.find(job, "main", "lab", list(wanted))).items():
                assert place == chunks[wanted[key]].location
                hits.append(wanted[key])
        # Whole batches in order, in a pack that is live and held by the job.
        assert sorted(hits) == list(range(len(hits)))
        assert len(hits) % 2000 == 0
        assert 0 < len(hits) < 16_000
        assert await index.condemn("main") == ([], [])
        await index.release(job)
        assert await index.condemn("main") == ([], [Doomed(pack_id(1), "main")])
        assert await count(database, "chunk") == 0


async def test_a_sweep_finds_the_few_among_100_000_packs(sqlite_database: Database) -> None:
    """And keeps other writers waiting for a fraction of it only."""
    ids = [pack_id(number) for number in range(100_000)]
    async with sqlite_database.transaction() as c:
        row = {"store": "main", "state": "live", "size_bytes": 1, "created_at": START}
        await c.execute(insert(pack), [row | {"id": name} for name in ids])
        holder = {"holder_kind": "manifest", "holder_id": new_id()}
        await c.execute(insert(pack_reference), [holder | {"pack_id": name} for name in ids[10:]])
    index = SqlChunkIndex(sqlite_database, clock)
    _, packs = await index.condemn("main")
    assert len(packs) == 10


async def test_the_sweep_reads_only_indexes(sqlite_database: Database) -> None:
    plans = []
    for query in (
        "SELECT id FROM pack WHERE store = 'main' AND state IN ('writing', 'live')"
        " AND NOT EXISTS (SELECT * FROM pack_reference WHERE pack_id = pack.id)",
        "SELECT id FROM manifest WHERE store = 'main' AND state IN ('writing', 'live')"
        " AND NOT EXISTS (SELECT * FROM manifest_holder WHERE manifest_id = manifest.id)",
        "DELETE FROM chunk WHERE pack_id IN ('a', 'b')",
        "DELETE FROM pack_reference WHERE holder_kind = 'manifest' AND holder_id IN ('a', 'b')",
    ):
        async with sqlite_database.reading() as c:
            plans += [row[3] for row in (await c.execute(text(f"EXPLAIN QUERY PLAN {query}"))).all()]
    assert not [plan for plan in plans if plan.startswith("SCAN")]
    assert any("COVERING INDEX ix_pack_store_state_id" in plan for plan in plans)
