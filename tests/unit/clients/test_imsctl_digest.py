"""`imsctl image digest`: broken off, and of what is no ordinary file."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from imsctl.image_digest import print_digest
from imsctl.progress import ProgressRow, ProgressView, Snapshot
from imsctl.session import Session, Settings

from imsd.formats.source import FileSource
from tests.unit.clients.conftest import Imsctl

MIB = 1 << 20


class GatedRow(ProgressRow):
    """Holds up the work at its first sign of progress until ``gate`` opens."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.gate = threading.Event()
        self.shown = 0

    def show(self, snapshot: Snapshot) -> None:
        self.shown += 1
        self.begun.set()
        self.gate.wait()


class GatedView(ProgressView):
    def __init__(self) -> None:
        self.only_row = GatedRow()

    def row(self, label: str = "") -> ProgressRow:
        return self.only_row

    def note(self, text: str) -> None:
        raise AssertionError(text)

    def close(self) -> None:
        return None


class GatedSession(Session):
    def __init__(self) -> None:
        super().__init__(Settings(), "table")
        self.view = GatedView()

    @contextmanager
    def progress(self) -> Iterator[ProgressView]:
        yield self.view


async def test_a_digest_that_is_broken_off_stops_at_the_next_piece_and_prints_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"x" * (64 * MIB))
    session = GatedSession()
    row = session.view.only_row
    work = asyncio.create_task(print_digest(session, str(disk), "raw"))
    assert await asyncio.to_thread(row.begun.wait)
    work.cancel()
    await asyncio.sleep(0)
    row.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert row.shown == 1
    assert capsys.readouterr().out == ""
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("digest")]


async def test_standard_input_has_no_digest(imsctl: Imsctl) -> None:
    outcome = await imsctl("image", "digest", "-", given=b"x" * 4096)
    assert outcome.code == 2
    assert "standard input cannot be read in any order" in outcome.errors


async def test_a_named_pipe_has_no_digest(imsctl: Imsctl, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    outcome = await imsctl("image", "digest", "pipe")
    assert outcome.code == 1
    assert outcome.errors.startswith("imsctl: pipe is a stream, not a disk image [LOCAL_FILE]")


async def test_a_directory_has_no_digest(imsctl: Imsctl, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    outcome = await imsctl("image", "digest", "folder")
    assert outcome.code == 1
    assert "[LOCAL_FILE]" in outcome.errors


def test_a_block_device_is_as_long_as_its_end_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(4096))
    status = os.stat_result((stat.S_IFBLK, *[0] * 9))  # a device has no st_size
    with path.open("rb") as file:
        monkeypatch.setattr(os, "fstat", lambda fd: status)
        size = FileSource(file.fileno()).size_bytes
        monkeypatch.undo()
    assert size == 4096
