from __future__ import annotations

import dataclasses

from sqlalchemy import text

from imsd.metadata import requests, uploads
from imsd.metadata.database import Database
from imsd.metadata.records import PartKind, PartRecord, UploadRecord, UploadState
from tests.unit.metadata.samples import an_upload, at, new_id


async def put(database: Database, *records: UploadRecord) -> None:
    async with database.transaction() as c:
        for record in records:
            await uploads.insert_upload(c, record)


async def get(database: Database, record: UploadRecord) -> UploadRecord | None:
    async with database.reading() as c:
        return await uploads.get_upload(c, record.project_id, record.id)


def a_part(record: UploadRecord, number: int, **values: object) -> PartRecord:
    part = PartRecord(
        upload_id=record.id, number=number, kind=PartKind.DATA, start=8 * number, length=8, stored_bytes=8
    )
    return dataclasses.replace(part, **values)  # type: ignore[arg-type]


async def test_an_upload_comes_back_as_it_went_in(database: Database) -> None:
    undecided = an_upload(size_bytes=1 << 45, fingerprint="f", tree_state=bytes(range(256)), digest="b3t:1")
    direct = an_upload(is_direct=True)
    staged = an_upload(is_direct=False, project_id="other")
    await put(database, undecided, direct, staged)
    for record in (undecided, direct, staged):
        assert await get(database, record) == record
    async with database.reading() as c:
        assert await uploads.get_upload(c, "other", direct.id) is None


async def test_uploads_are_listed_newest_first_in_pages(database: Database) -> None:
    records = [an_upload(created_at=at(number // 2), fingerprint=f"f{number % 2}") for number in range(9)]
    await put(database, *records, an_upload(project_id="other"))
    newest_first = sorted(records, key=lambda record: (record.created_at, record.id), reverse=True)
    async with database.reading() as c:
        first = await uploads.list_uploads(c, "lab", "", 4, None)
        rest = await uploads.list_uploads(c, "lab", "", 9, (first[-1].created_at, first[-1].id))
        of_one_file = await uploads.list_uploads(c, "lab", "f1", 9, None)
    assert first + rest == newest_first
    assert of_one_file == [record for record in newest_first if record.fingerprint == "f1"]


async def test_rows_that_are_read_many_at_a_time_leave_the_state_of_writers_out(database: Database) -> None:
    record = an_upload(tree_state=b"megabytes", expires_at=at(1))
    await put(database, record)
    async with database.reading() as c:
        listed = await uploads.list_uploads(c, "lab", "", 9, None)
        expired = await uploads.expired_uploads(c, at(2), 9)
    assert listed == expired == [dataclasses.replace(record, tree_state=b"")]


async def test_a_newer_writer_fences_the_older_off(database: Database) -> None:
    record = an_upload()
    await put(database, record)
    async with database.transaction() as c:
        older = await uploads.take_over(c, record.id)
        newer = await uploads.take_over(c, record.id)
        assert (older, newer) == (1, 2)
        values = {"committed_offset": 8, "staged_bytes": 8, "expires_at": at(1), "is_direct": True}
        part = a_part(record, 0)
        assert not await uploads.advance_upload(c, record.id, 1, part=part, values=values)
        assert await uploads.upload_parts(c, record.id) == []
        move = [UploadState.OPEN], UploadState.COMMITTED
        assert await uploads.move_upload(c, record.id, *move, 1, {}) is None
        assert await uploads.advance_upload(c, record.id, 2, part=part, values=values)
    assert await get(database, record) == dataclasses.replace(record, fence=2, **values)  # type: ignore[arg-type]


async def test_parts_come_back_in_the_order_of_the_file(database: Database) -> None:
    record = an_upload()
    await put(database, record)
    kinds = [PartKind.DATA, PartKind.ZERO, PartKind.SEGMENT]
    parts = [a_part(record, number, kind=kind, start=1 << 44) for number, kind in enumerate(kinds)]
    async with database.transaction() as c:
        for part in parts[::-1]:
            assert await uploads.advance_upload(c, record.id, 0, part=part, values={})
    async with database.reading() as c:
        assert await uploads.upload_parts(c, record.id) == parts
        assert await uploads.upload_parts(c, new_id()) == []


async def test_a_committed_upload_takes_no_writer_and_no_bytes(database: Database) -> None:
    record = an_upload()
    await put(database, record)
    async with database.transaction() as c:
        sealed = await uploads.move_upload(
            c, record.id, [UploadState.OPEN], UploadState.COMMITTED, 0, {"digest": "b3t:0"}
        )
        assert sealed == dataclasses.replace(record, state=UploadState.COMMITTED, digest="b3t:0")
        assert await uploads.take_over(c, record.id) is None
        assert not await uploads.advance_upload(c, record.id, 0, part=None, values={"committed_offset": 1})
    assert await get(database, record) == sealed


async def test_one_job_at_a_time_consumes_a_committed_upload(database: Database) -> None:
    growing, record = an_upload(), an_upload(state=UploadState.COMMITTED)
    await put(database, growing, record)
    async with database.transaction() as c:
        assert not await uploads.attach_upload(c, growing.id, "job 1")
        assert await uploads.attach_upload(c, record.id, "job 1")
        assert not await uploads.attach_upload(c, record.id, "job 2")
        assert not await uploads.detach_upload(c, record.id, "job 2")
        assert await uploads.detach_upload(c, record.id, "job 1")
        assert await uploads.attach_upload(c, record.id, "job 2")
        assert await uploads.detach_upload(c, record.id)
        assert not await uploads.detach_upload(c, record.id)


async def test_parts_go_with_their_upload(database: Database) -> None:
    record = an_upload()
    await put(database, record)
    async with database.transaction() as c:
        await uploads.advance_upload(c, record.id, 0, part=a_part(record, 0), values={})
        await uploads.delete_upload_row(c, record.id)
        await uploads.delete_upload_row(c, record.id)
        assert (await c.execute(text("SELECT count(*) FROM upload_part"))).scalar() == 0
    assert await get(database, record) is None


async def test_uploads_expire_unless_a_job_uses_them(database: Database) -> None:
    late = an_upload(expires_at=at(10))
    later = an_upload(expires_at=at(20), state=UploadState.COMMITTED, project_id="other")
    used = an_upload(expires_at=at(5), state=UploadState.COMMITTED, job_id=new_id())
    fresh = an_upload(expires_at=at(21))
    await put(database, later, late, used, fresh)
    async with database.reading() as c:
        assert await uploads.expired_uploads(c, at(20), 10) == [late, later]
        assert await uploads.expired_uploads(c, at(20), 1) == [late]
        assert await uploads.expired_uploads(c, at(9), 10) == []


async def test_a_project_is_charged_for_its_own_uploads_only(database: Database) -> None:
    await put(
        database,
        an_upload(staged_bytes=1 << 40),
        an_upload(staged_bytes=5, state=UploadState.COMMITTED),
        an_upload(staged_bytes=99, project_id="other"),
    )
    async with database.reading() as c:
        total = await uploads.staged_total(c, "lab")
        assert (total, type(total)) == ((1 << 40) + 5, int)
        assert await uploads.staged_total(c, "nobody") == 0
        assert await uploads.open_upload_count(c, "lab") == 1
        assert await uploads.open_upload_count(c, "nobody") == 0


async def test_known_uploads_are_told_from_unknown_ones(database: Database) -> None:
    records = [an_upload() for _ in range(3)]
    await put(database, *records)
    known = {record.id for record in records}
    async with database.reading() as c:
        assert await uploads.known_uploads(c, [*known, *(new_id() for _ in range(2500))]) == known
        assert await uploads.known_uploads(c, []) == set()


async def test_a_repeated_request_is_recalled(database: Database) -> None:
    async with database.transaction() as c:
        assert await requests.recall_request(c, "lab", "r1") is None
        assert await requests.remember_request(c, "lab", "r1", "print", "job", at(0))
        assert not await requests.remember_request(c, "lab", "r1", "other", "other", at(1))
        assert await requests.remember_request(c, "other", "r1", "theirs", "theirs", at(5))
        assert await requests.recall_request(c, "lab", "r1") == ("print", "job")
        assert await requests.recall_request(c, "other", "r1") == ("theirs", "theirs")


async def test_old_requests_are_forgotten(database: Database) -> None:
    async with database.transaction() as c:
        for number in range(5):
            await requests.remember_request(c, "lab", f"r{number}", "print", "job", at(number))
        assert [await requests.forget_requests(c, at(3), 2) for _ in range(3)] == [2, 1, 0]
        assert await requests.recall_request(c, "lab", "r2") is None
        assert await requests.recall_request(c, "lab", "r3") is not None
