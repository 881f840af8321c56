from __future__ import annotations

import pytest
from sqlalchemy import text

from imsd.chunks.index import Codec, Doomed, Holder, HolderKind, IndexedChunk, Location
from imsd.contract import Conflict, NotFound
from imsd.metadata import chunk_index
from imsd.metadata.chunk_index import SqlChunkIndex
from imsd.metadata.database import Database
from tests.unit.metadata.samples import (
    chunks_of,
    clock,
    count,
    digest,
    job_holder,
    new_id,
    pack_id,
    upload_holder,
)

PACK, MANIFEST = pack_id(1), pack_id(100)


@pytest.fixture
def index(database: Database) -> SqlChunkIndex:
    return SqlChunkIndex(database, clock)


@pytest.fixture
async def job(database: Database) -> Holder:
    return await job_holder(database)


async def commit(index: SqlChunkIndex, holder: Holder, pack: str, *numbers: int) -> None:
    await index.begin_pack(holder, pack, "main")
    await index.commit_pack(holder, "lab", pack, 4096, chunks_of(pack, *numbers))


async def found(index: SqlChunkIndex, holder: Holder, *numbers: int, domain: str = "lab") -> list[int]:
    digests = {digest(number): number for number in numbers}
    return sorted(digests[key] for key in await index.find(holder, "main", domain, list(digests)))


async def publish(
    index: SqlChunkIndex, database: Database, writer: Holder, image_id: str, *packs: str
) -> None:
    await index.begin_manifest(writer, MANIFEST, "main")
    async with database.transaction() as c:
        await chunk_index.publish_manifest(
            c, manifest_id=MANIFEST, writer=writer, image_id=image_id, packs=packs
        )


async def test_a_committed_chunk_is_found_where_it_lies(index: SqlChunkIndex, job: Holder) -> None:
    await commit(index, job, PACK, 1, 2, 3)
    wanted = [digest(number) for number in (3, 7, 1)]
    places = {chunk.digest: chunk.location for chunk in chunks_of(PACK, 1, 2, 3)}
    assert await index.find(job, "main", "lab", wanted) == {
        key: places[key] for key in wanted if key != digest(7)
    }


async def test_a_chunk_is_found_as_it_lies_sealed_or_not(index: SqlChunkIndex, job: Holder) -> None:
    chunks = [
        IndexedChunk(digest(codec), Location(PACK, 1000 * codec, 128, 100, codec, bytes(16), 50, 20))
        for codec in Codec
    ]
    await index.begin_pack(job, PACK, "main")
    await index.commit_pack(job, "lab", PACK, 8192, chunks)
    places = await index.find(job, "main", "lab", [chunk.digest for chunk in chunks])
    assert places == dict(chunks)
    assert all(type(place.codec) is Codec for place in places.values())


async def test_a_chunk_of_a_pack_being_written_is_not_found(index: SqlChunkIndex, job: Holder) -> None:
    await index.begin_pack(job, PACK, "main")
    assert await found(index, job, 1) == []


async def test_a_domain_does_not_know_of_another(index: SqlChunkIndex, job: Holder) -> None:
    await commit(index, job, PACK, 1)
    assert await found(index, job, 1, domain="other") == []
    assert await found(index, job, 1) == [1]


async def test_a_store_does_not_know_of_another(index: SqlChunkIndex, job: Holder) -> None:
    await commit(index, job, PACK, 1)
    assert await index.find(job, "second", "lab", [digest(1)]) == {}
    await index.begin_pack(job, pack_id(2), "second")
    await index.commit_pack(job, "lab", pack_id(2), 4096, chunks_of(pack_id(2), 1))
    for store, pack in (("main", PACK), ("second", pack_id(2))):
        (place,) = (await index.find(job, store, "lab", [digest(1)])).values()
        assert place.pack_id == pack


async def test_a_known_digest_keeps_its_place(index: SqlChunkIndex, job: Holder) -> None:
    await commit(index, job, PACK, 1)
    await commit(index, job, pack_id(2), 2, 1)
    (place,) = (await index.find(job, "main", "lab", [digest(1)])).values()
    assert place.pack_id == PACK


async def test_a_digest_in_a_pack_twice_is_indexed_once(
    index: SqlChunkIndex, job: Holder, database: Database
) -> None:
    await commit(index, job, PACK, 1, 1, 2)
    assert await count(database, "chunk") == 2


async def test_a_hit_references_the_pack_for_the_finder(
    index: SqlChunkIndex, job: Holder, database: Database
) -> None:
    await commit(index, job, PACK, 1)
    finder = await upload_holder(database)
    assert await found(index, finder, 1) == [1]
    await index.release(job)
    assert await index.condemn("main") == ([], [])
    await index.release(finder)
    assert await index.condemn("main") == ([], [Doomed(PACK, "main")])


async def test_chunks_of_a_damaged_pack_are_stored_anew(index: SqlChunkIndex, job: Holder) -> None:
    await commit(index, job, PACK, 1, 2)
    await commit(index, job, pack_id(2), 3)
    await index.distrust([PACK])
    await index.distrust([PACK])
    assert await found(index, job, 1, 2, 3) == [3]
    await commit(index, job, pack_id(3), 1)
    assert (await index.find(job, "main", "lab", [digest(1)]))[digest(1)].pack_id == pack_id(3)


async def test_a_miss_references_nothing(index: SqlChunkIndex, job: Holder, database: Database) -> None:
    await commit(index, job, PACK, 1)
    finder = await upload_holder(database)
    assert await found(index, finder, 2) == []
    await index.release(job)
    assert await index.condemn("main") == ([], [Doomed(PACK, "main")])


async def test_a_look_up_takes_none_and_4096_digests_and_no_more(index: SqlChunkIndex, job: Holder) -> None:
    await commit(index, job, PACK, *range(0, 4096, 2))
    assert await index.find(job, "main", "lab", []) == {}
    assert await found(index, job, *range(4096)) == list(range(0, 4096, 2))
    with pytest.raises(ValueError, match="4097 digests"):
        await index.find(job, "main", "lab", [digest(1)] * 4097)


async def test_a_digest_asked_twice_is_answered_once(index: SqlChunkIndex, job: Holder) -> None:
    await commit(index, job, PACK, 1)
    assert list(await index.find(job, "main", "lab", [digest(1), digest(1)])) == [digest(1)]


async def test_a_pack_of_many_chunks_is_indexed_whole(index: SqlChunkIndex, job: Holder) -> None:
    numbers = range(4500)
    await commit(index, job, PACK, *numbers)
    assert await found(index, job, *numbers[:4096]) == list(numbers[:4096])
    assert await found(index, job, *numbers[4096:]) == list(numbers[4096:])


async def test_a_pack_without_chunks_may_be_committed(
    index: SqlChunkIndex, job: Holder, database: Database
) -> None:
    await commit(index, job, PACK)
    await publish(index, database, job, new_id(), PACK)  # only a live pack can be listed
    assert await count(database, "chunk") == 0


async def test_a_chunk_of_another_pack_is_a_defect(index: SqlChunkIndex, job: Holder) -> None:
    await index.begin_pack(job, PACK, "main")
    with pytest.raises(ValueError, match="is committed with pack"):
        await index.commit_pack(job, "lab", PACK, 1, chunks_of(pack_id(2), 1))


async def test_an_id_is_never_used_twice(index: SqlChunkIndex, job: Holder) -> None:
    await index.begin_pack(job, PACK, "main")
    await index.begin_manifest(job, MANIFEST, "main")
    with pytest.raises(Conflict, match="exists already"):
        await index.begin_pack(job, PACK, "main")
    with pytest.raises(Conflict, match="exists already"):
        await index.begin_manifest(job, MANIFEST, "main")


async def test_a_pack_is_committed_once_and_by_its_writer(
    index: SqlChunkIndex, job: Holder, database: Database
) -> None:
    await index.begin_pack(job, PACK, "main")
    stranger = await job_holder(database)
    with pytest.raises(Conflict, match="not being written"):
        await index.commit_pack(stranger, "lab", PACK, 1, [])
    await index.commit_pack(job, "lab", PACK, 1, [])
    with pytest.raises(Conflict, match="not being written"):
        await index.commit_pack(job, "lab", PACK, 1, [])
    with pytest.raises(Conflict, match="not being written"):
        await index.commit_pack(job, "lab", pack_id(9), 1, [])


# -- manifests ----------------------------------------------------------------------------------------


async def test_a_published_manifest_keeps_its_packs_and_the_image_keeps_the_manifest(
    index: SqlChunkIndex, job: Holder, database: Database
) -> None:
    await commit(index, job, PACK, 1)
    await commit(index, job, pack_id(2), 2)  # begun by an earlier run, not listed
    image = Holder(HolderKind.IMAGE, new_id())
    await publish(index, database, job, image.id, PACK)
    await index.release(job)
    assert await index.condemn("main") == ([], [Doomed(pack_id(2), "main")])
    finder = await job_holder(database)
    assert await found(index, finder, 1, 2) == [1]
    await index.release(finder)
    await index.release(image)
    manifests, packs = await index.condemn("main")
    assert manifests == [Doomed(MANIFEST, "main")]
    assert {doomed.id for doomed in packs} == {PACK, pack_id(2)}  # in no order
    assert len(packs) == 2
    assert await count(database, "chunk") == 0
    assert await count(database, "pack_reference") == 0


async def test_a_manifest_with_more_packs_than_a_statement_takes_variables_is_published(
    index: SqlChunkIndex, job: Holder, database: Database
) -> None:
    packs = [pack_id(number) for number in range(1000, 1910)]
    async with database.transaction() as c:
        for pack in packs:
            await c.execute(
                text(
                    "INSERT INTO pack (id, store, state, size_bytes, created_at)"
                    " VALUES (:id, 'main', 'live', 1, '2026-01-01 00:00:00.000000')"
                ),
                {"id": pack},
            )
            await c.execute(
                text("INSERT INTO pack_reference VALUES (:id, 'job', :job)"), {"id": pack, "job": job.id}
            )
    await publish(index, database, job, new_id(), *packs, packs[0])
    await index.release(job)
    assert await count(database, "pack_reference") == 910
    assert await index.condemn("main") == ([], [])


@pytest.mark.parametrize("fault", ["not held", "still being written", "unknown"])
async def test_a_manifest_that_lists_a_pack_that_may_go_is_refused(
    index: SqlChunkIndex, job: Holder, database: Database, fault: str
) -> None:
    await commit(index, job, PACK, 1)
    if fault == "not held":
        await commit(index, await job_holder(database), pack_id(2), 2)
    elif fault == "still being written":
        await index.begin_pack(job, pack_id(2), "main")
    with pytest.raises(Conflict, match="1 packs that the manifest lists"):
        await publish(index, database, job, new_id(), PACK, pack_id(2))
    with pytest.raises(NotFound):
        await index.hold_manifest(Holder(HolderKind.READER, new_id()), MANIFEST)


async def test_only_its_writer_publishes_a_manifest_and_once(
    index: SqlChunkIndex, job: Holder, database: Database
) -> None:
    await index.begin_manifest(job, MANIFEST, "main")
    stranger = await job_holder(database)

    async def publish_as(writer: Holder) -> None:
        async with database.transaction() as c:
            await chunk_index.publish_manifest(
                c, manifest_id=MANIFEST, writer=writer, image_id=new_id(), packs=[]
            )

    with pytest.raises(Conflict, match="not being written by"):
        await publish_as(stranger)
    with pytest.raises(Conflict, match="taken over"):
        await publish_as(Holder(job.kind, job.id, job.fence + 1))
    await publish_as(job)
    with pytest.raises(Conflict, match="not being written by"):
        await publish_as(job)


async def test_a_reader_keeps_the_bytes_of_a_deleted_image(
    index: SqlChunkIndex, job: Holder, database: Database
) -> None:
    await commit(index, job, PACK, 1)
    image, reader = Holder(HolderKind.IMAGE, new_id()), Holder(HolderKind.READER, new_id())
    await publish(index, database, job, image.id, PACK)
    await index.release(job)
    assert await index.hold_manifest(reader, MANIFEST) == "main"
    assert await index.hold_manifest(reader, MANIFEST) == "main"
    await index.release(image)
    assert await index.condemn("main") == ([], [])
    await index.release(reader)
    await index.release(reader)
    manifests, packs = await index.condemn("main")
    assert (len(manifests), len(packs)) == (1, 1)
    with pytest.raises(NotFound):
        await index.hold_manifest(reader, MANIFEST)


async def test_the_holds_of_a_dead_daemons_readers_are_dropped(
    index: SqlChunkIndex, job: Holder, database: Database
) -> None:
    await commit(index, job, PACK, 1)
    image = Holder(HolderKind.IMAGE, new_id())
    await publish(index, database, job, image.id, PACK)
    await index.hold_manifest(Holder(HolderKind.READER, new_id()), MANIFEST)
    await index.release(image)
    async with database.transaction() as c:
        await chunk_index.release_readers(c)
        await chunk_index.release_holder(c, job)
    manifests, packs = await index.condemn("main")
    assert (len(manifests), len(packs)) == (1, 1)


async def test_a_job_takes_over_what_an_upload_holds(
    index: SqlChunkIndex, job: Holder, database: Database
) -> None:
    upload = await upload_holder(database)
    await commit(index, upload, PACK, 1)
    await index.begin_manifest(upload, MANIFEST, "main")
    async with database.transaction() as c:
        await chunk_index.copy_references(c, upload, job)
        await chunk_index.copy_references(c, upload, job)
        await chunk_index.release_holder(c, upload)
    assert await index.condemn("main") == ([], [])
    await index.release(job)
    assert await index.condemn("main") == ([Doomed(MANIFEST, "main")], [Doomed(PACK, "main")])


async def test_images_switch_to_another_manifest_of_their_disk(
    index: SqlChunkIndex, database: Database, job: Holder
) -> None:
    images = [new_id(), new_id()]
    await commit(index, job, PACK, 1)
    await publish(index, database, job, images[0], PACK)
    await index.hold_manifest(Holder(HolderKind.IMAGE, images[1]), MANIFEST)
    mover, moved = await job_holder(database), pack_id(101)
    await commit(index, mover, pack_id(2), 2)

    async def switch(*image_ids: str) -> None:
        async with database.transaction() as c:
            await chunk_index.switch_manifest(
                c,
                from_manifest=MANIFEST,
                to_manifest=moved,
                writer=mover,
                packs=[pack_id(2)],
                image_ids=image_ids,
            )

    await index.begin_manifest(mover, moved, "main")
    with pytest.raises(Conflict, match="does not hold"):
        await switch(images[0], new_id())
    await switch(images[0])
    for holder in (job, mover):
        await index.release(holder)
    assert await index.condemn("main") == ([], [])
    await index.release(Holder(HolderKind.IMAGE, images[1]))
    assert await index.condemn("main") == ([Doomed(MANIFEST, "main")], [Doomed(PACK, "main")])
    await index.release(Holder(HolderKind.IMAGE, images[0]))
    manifests, _ = await index.condemn("main")
    assert Doomed(moved, "main") in manifests


async def test_the_packs_of_a_manifest_are_held_for_who_repacks_it(
    index: SqlChunkIndex, database: Database, job: Holder
) -> None:
    image = new_id()
    await commit(index, job, PACK, 1)
    await publish(index, database, job, image, PACK)
    mover = await job_holder(database)
    await index.hold_packs_of(mover, MANIFEST)
    await index.release(Holder(HolderKind.IMAGE, image))
    await index.release(job)
    assert await index.condemn("main") == ([Doomed(MANIFEST, "main")], [])
    with pytest.raises(NotFound):
        await index.hold_packs_of(mover, MANIFEST)
    with pytest.raises(Conflict):
        await index.hold_packs_of(Holder(HolderKind.JOB, mover.id, mover.fence + 1), MANIFEST)
