"""Chunks that a writer names: what a stream has of them in memory is a message, as of bytes that come."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from imsd.chunks.file_chunks import FileChunks
from imsd.chunks.known_chunks import KnownChunks, NamedChunk
from imsd.core.limits import MAX_WRITE_BYTES
from imsd.core.requests import RequestKey
from imsd.core.upload_chunks import UploadChunks
from imsd.core.uploads import GoneUpload, NewUpload
from imsd.metadata.database import Database
from tests.unit.core.core_world import new_id
from tests.unit.core.import_world import MIB, PROJECT, ImportWorld
from tests.unit.core.test_space import noise


@pytest.fixture
def world(database: Database) -> ImportWorld:
    return ImportWorld(database)


async def test_a_stream_reads_a_message_at_a_time(
    world: ImportWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, at_once = KnownChunks.read, []

    async def noted(self: KnownChunks, named: Sequence[NamedChunk], key: bytes) -> list[bytes | None]:
        at_once.append(sum(each.length for each in named))
        return await real(self, named, key)

    monkeypatch.setattr(KnownChunks, "read", noted)
    disk = noise(3, 6 * MIB)
    async with world.serving() as service:
        await service.import_file(disk)
        chunks = UploadChunks(service.runtime)
        upload = await service.uploads.create(RequestKey(PROJECT, "", new_id()), NewUpload())
        assert not isinstance(upload, GoneUpload)
        cut = FileChunks(chunks.proof_key(upload))
        named = [NamedChunk(each.digest, each.length, each.proof) for each in [*cut.data(disk), *cut.end()]]
        assert len(named) <= 64
        pieces = [piece async for piece in chunks.read(upload, named)]
    assert b"".join(pieces) == disk
    assert len(at_once) > 1
    assert max(at_once) <= MAX_WRITE_BYTES
