from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import delete, insert, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from imsd.contract import FailedPrecondition
from imsd.metadata import attachments, identity, images, jobs, migrations, schema, uploads
from imsd.metadata.chunk_index import SqlChunkIndex
from imsd.metadata.connection import UnbrokenConnection
from imsd.metadata.database import Database, open_database
from imsd.metadata.engine import migrating_engine
from imsd.metadata.rows import to_row
from imsd.metadata.tables import metadata
from tests.unit.metadata.samples import (
    a_job,
    an_attachment,
    an_image,
    an_upload,
    at,
    chunks_of,
    clock,
    digest,
    job_holder,
    pack_id,
)


def test_the_revisions_the_program_knows_are_those_it_has() -> None:
    scripts = ScriptDirectory(str(migrations.HERE))
    oldest_first = [script.revision for script in scripts.walk_revisions()][::-1]
    assert tuple(oldest_first) == schema.REVISIONS
    assert scripts.get_heads() == [schema.REVISIONS[-1]]


async def test_the_migrations_make_exactly_the_tables(database: Database) -> None:
    async with database.transaction() as c:
        assert await c.run_sync(migrations.differences) == []


async def test_a_forgotten_column_would_be_noticed(sqlite_database: Database) -> None:
    async with sqlite_database.transaction() as c:
        await c.execute(text("ALTER TABLE pack DROP COLUMN size_bytes"))
        (change,) = await c.run_sync(migrations.differences)
    assert change[0] == "add_column"


async def test_the_chunk_table_needs_no_second_tree(sqlite_database: Database) -> None:
    async with sqlite_database.reading() as c:
        made = (await c.execute(text("SELECT sql FROM sqlite_master WHERE name = 'chunk'"))).scalar_one()
    assert "WITHOUT ROWID" in made


async def test_a_downgrade_takes_everything_back_and_an_upgrade_brings_it_again(sqlite_url: str) -> None:
    async with open_database(sqlite_url):
        pass
    await go_back(sqlite_url, "base")
    engine = create_async_engine(sqlite_url)
    async with engine.connect() as c:
        names = await c.run_sync(lambda plain: plain.dialect.get_table_names(plain))
    await engine.dispose()
    assert names == [schema.VERSION_TABLE]
    async with open_database(sqlite_url) as database, database.reading() as c:
        found = await c.run_sync(lambda c: c.dialect.get_table_names(c))
    assert set(found) == set(metadata.tables) | {schema.VERSION_TABLE}


async def test_projects_that_have_something_are_known_after_an_upgrade(database_url: str) -> None:
    async with open_database(database_url) as database, database.transaction() as c:
        for table in ("image", "upload", "job", "project"):
            await c.execute(delete(metadata.tables[table]))
        await images.insert_image(c, an_image(project_id="lab", created_at=at(5)))
        await uploads.insert_upload(c, an_upload(project_id="lab", created_at=at(2)))
        await jobs.insert_job(c, a_job(project_id="web", created_at=at(3)))
        await c.execute(text(f"UPDATE {schema.VERSION_TABLE} SET version_num = '0005'"))
    async with open_database(database_url) as database, database.reading() as c:
        found = await identity.list_projects(c, 10, "")
    assert [(project.id, project.created_at) for project in found] == [("lab", at(2)), ("web", at(3))]


async def test_chunks_are_known_to_the_store_of_their_pack_after_an_upgrade(database_url: str) -> None:
    async with open_database(database_url) as database:
        index, job = SqlChunkIndex(database, clock), await job_holder(database)
        for number, store in ((901, "main"), (902, "second")):
            await index.begin_pack(job, pack_id(number), store)
            await index.commit_pack(job, "lab", pack_id(number), 1, chunks_of(pack_id(number), number))
    await go_back(database_url, "0012")
    async with open_database(database_url) as database:
        index = SqlChunkIndex(database, clock)
        wanted = [digest(901), digest(902)]
        for number, store in ((901, "main"), (902, "second")):
            expected = {chunk.digest: chunk.location for chunk in chunks_of(pack_id(number), number)}
            assert await index.find(job, store, "lab", wanted) == expected


async def test_attachments_know_the_digests_of_their_images_after_an_upgrade(database_url: str) -> None:
    image = an_image(digest="b3t:" + "7" * 64)
    kept, orphan = an_attachment(image_id=image.id), an_attachment()
    async with open_database(database_url) as database, database.transaction() as c:
        await c.execute(delete(metadata.tables["image"]))
        await images.insert_image(c, image)
        for record in (kept, orphan):
            await c.execute(insert(metadata.tables["attachment"]).values(to_row(record)))
    await go_back(database_url, "0018")
    async with open_database(database_url) as database, database.transaction() as c:
        assert await c.run_sync(migrations.differences) == []
        for record, digest_then in ((kept, image.digest), (orphan, "")):
            assert await attachments.get_attachment(c, record.id) == replace(record, digest=digest_then)


async def go_back(url: str, revision: str) -> None:
    engine = migrating_engine(make_url(url))
    connection = UnbrokenConnection(engine)
    await connection.start()
    await connection.run_sync(migrations.go_back, revision)
    await connection.commit()
    await connection.close()
    await engine.dispose()


async def test_a_migration_that_fails_leaves_nothing_behind(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate = migrations.migrate

    def fail_at_the_end(connection: object, revision: str) -> None:
        migrate(connection, revision)  # type: ignore[arg-type]
        raise RuntimeError("power cut")

    monkeypatch.setattr(migrations, "migrate", fail_at_the_end)
    with pytest.raises(RuntimeError, match="power cut"):
        await opened_and_closed(sqlite_url)
    monkeypatch.undo()
    async with open_database(sqlite_url) as database, database.transaction() as c:
        assert await c.run_sync(migrations.differences) == []


async def opened_and_closed(url: str) -> None:
    async with open_database(url):
        pass


async def test_a_schema_of_a_newer_program_is_refused(sqlite_url: str) -> None:
    async with open_database(sqlite_url) as database, database.transaction() as c:
        await c.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(FailedPrecondition, match=r"does not know.*9999") as caught:
        await opened_and_closed(sqlite_url)
    assert "that imsd" in caught.value.hint


async def test_the_database_of_another_program_is_left_alone(sqlite_url: str) -> None:
    engine = migrating_engine(make_url(sqlite_url))
    async with engine.begin() as c:
        await c.execute(text("CREATE TABLE accounts (id INTEGER)"))
    await engine.dispose()
    with pytest.raises(FailedPrecondition, match="another program"):
        await opened_and_closed(sqlite_url)


async def test_several_daemons_may_open_a_new_database_at_once(postgresql_url: str) -> None:
    administrator = create_async_engine(postgresql_url, isolation_level="AUTOCOMMIT")
    async with administrator.connect() as c:
        await c.execute(text("CREATE DATABASE fleet"))
    await administrator.dispose()
    url = postgresql_url.replace("/postgres?", "/fleet?")
    await asyncio.gather(*[opened_and_closed(url) for _ in range(4)])
    async with open_database(url) as database, database.transaction() as c:
        assert await c.run_sync(migrations.differences) == []


async def test_alembic_is_imported_only_to_migrate(sqlite_url: str) -> None:
    await opened_and_closed(sqlite_url)
    code = (
        "import asyncio, sys\n"
        "from imsd.metadata.database import open_database\n"
        "async def main():\n"
        "    async with open_database(sys.argv[1]):\n"
        "        print([name for name in ('alembic', 'mako', 'asyncpg') if name in sys.modules])\n"
        "asyncio.run(main())\n"
    )
    ran = subprocess.run(  # noqa: ASYNC221 - nothing else runs
        [sys.executable, "-c", code, sqlite_url],
        env=os.environ | {"PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == "[]"


async def test_a_new_revision_can_be_written(
    sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "migrations"
    (here / "versions").mkdir(parents=True)
    written = [str(path.relative_to(migrations.HERE)) for path in migrations.HERE.glob("versions/0*.py")]
    for name in ("env.py", "script.py.mako", *written):
        (here / name).write_text((migrations.HERE / name).read_text())
    newest = schema.REVISIONS[-1]
    monkeypatch.setattr(migrations, "HERE", here)
    async with sqlite_database.transaction() as c:
        await c.execute(text("ALTER TABLE pack DROP COLUMN created_at"))
        await c.run_sync(migrations.write_revision, "next", "9999")
    revision = (here / "versions" / "9999_next.py").read_text()
    compile(revision, "9999_next.py", "exec")
    assert f'down_revision = "{newest}"' in revision.replace("'", '"')
    assert "batch_op.add_column(sa.Column('created_at', sa.DateTime(timezone=True)" in revision
