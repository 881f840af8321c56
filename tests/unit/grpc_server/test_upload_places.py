"""Writers that wait for a place among the streams of the daemon."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from grpc.aio import EOF

from imsd.core import handed_files
from imsd.core.access import Access
from imsd.core.caller import THE_DAEMON
from imsd.core.handed_files import HandedFile, HandedFiles
from imsd.core.policies.decisions import Policies
from imsd.core.policies.loading import load_policies
from imsd.core.projects import KnownProjects
from imsd.core.remembered import Changes
from imsd.core.sweeper import Sweeper
from imsd.core.uploads import Uploads
from imsd.grpc_server import gate
from imsd.grpc_server.upload_servicer import UploadServicer
from imsd.metadata.database import open_database
from imsd.testing.memory_store import MemoryStore
from imsd.v1 import upload_pb2 as pb
from tests.unit.core.core_world import STORE, now, open_runtime, pool_of

SIZE = 100_000
METHOD = "imsd.v1.UploadService/WriteUpload"
TOKEN = bytes(range(32))


def shipped_access(servicer: UploadServicer) -> Access:
    return Access(servicer._uploads._runtime.database, Policies(load_policies()))


class Writer:
    """A call whose client sends ``header`` and, if it is not silent, ends the stream."""

    def __init__(self, header: pb.WriteUploadRequest.Header) -> None:
        self._header: pb.WriteUploadRequest | None = pb.WriteUploadRequest(header=header)
        self.may_end = asyncio.Event()

    async def read(self) -> Any:
        if request := self._header:
            self._header = None
            return request
        await self.may_end.wait()
        return EOF


@pytest.fixture
async def servicer(tmp_path: Path) -> AsyncIterator[UploadServicer]:
    async with (
        open_database(f"sqlite+aiosqlite:///{tmp_path}/db.sqlite3") as database,
        open_runtime(database, pool_of(**{STORE: MemoryStore()})) as runtime,
    ):
        files = HandedFiles()
        yield UploadServicer(Uploads(runtime, Sweeper(runtime)), files, runtime, max_streams=1)
        files.close()


async def test_a_file_is_kept_while_its_writer_waits_for_a_place(
    servicer: UploadServicer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handed_files, "WAITING_SECONDS", 0.05)
    known = KnownProjects(servicer._uploads._runtime.database, now, Changes())
    gate._admission.set(gate.Admission(THE_DAEMON, METHOD, shipped_access(servicer), known, None))
    context: Any = None
    first, second = [
        await servicer.CreateUpload(pb.CreateUploadRequest(size_bytes=SIZE), context) for _ in range(2)
    ]
    silent: Any = Writer(pb.WriteUploadRequest.Header(upload_id=first.id))
    holder = servicer.WriteUpload(None, silent)  # type: ignore[arg-type]
    await anext(holder)  # has the only place

    path = tmp_path / "disk"
    path.write_bytes(b"x" * SIZE)
    servicer._files.put(TOKEN, HandedFile.examine(os.open(path, os.O_RDONLY)))
    waiting: Any = Writer(pb.WriteUploadRequest.Header(upload_id=second.id, file_token=TOKEN))

    async def follow() -> int:
        return [answer.committed_offset async for answer in servicer.WriteUpload(None, waiting)][-1]  # type: ignore[arg-type]

    following = asyncio.create_task(follow())
    await asyncio.sleep(0.3)
    assert not following.done()
    silent.may_end.set()
    await anext(holder, None)
    assert await following == SIZE
