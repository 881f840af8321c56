"""`imsctl upload`: uploads are resumed, listed and aborted, as processes."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from imsd.v1 import upload_pb2
from tests.unit.clients.conftest import Imsctl, until
from tests.unit.clients.disks import disk
from tests.unit.clients.fake_daemon import FakeDaemon
from tests.unit.clients.fake_state import FakeUpload, digest_of

MIB = 1 << 20


async def test_an_upload_is_resumed_by_its_id(imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path) -> None:
    content = disk(tmp_path)
    upload = upload_pb2.Upload(
        id="8d7f6a34-9a53-4d3c-8a4b-5c0c3a2f7b10",
        state=upload_pb2.UPLOAD_STATE_OPEN,
        size_bytes=len(content),
        committed_offset=MIB,
    )
    daemon.state.uploads[upload.id] = FakeUpload(upload, bytearray(content[:MIB]))
    outcome = await imsctl("upload", "resume", upload.id, "disk.raw", "-o", "json")
    assert outcome.code == 0, outcome.errors
    assert outcome.json["state"] == "committed"
    assert outcome.json["digest"] == digest_of(content)


async def test_another_file_does_not_resume_an_upload(
    imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path
) -> None:
    disk(tmp_path, 1000)
    upload = upload_pb2.Upload(id="u", state=upload_pb2.UPLOAD_STATE_OPEN, size_bytes=2000)
    daemon.state.uploads["u"] = FakeUpload(upload)
    outcome = await imsctl("upload", "resume", "u", "disk.raw")
    assert outcome.code == 1
    assert "[LOCAL_FILE]" in outcome.errors


@pytest.mark.parametrize("declared", [1000, 0])
async def test_a_file_with_another_mark_does_not_resume_an_upload_and_nothing_is_lost(
    imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path, declared: int
) -> None:
    disk(tmp_path, 1000)
    upload = upload_pb2.Upload(
        id="u", state=upload_pb2.UPLOAD_STATE_OPEN, size_bytes=declared, fingerprint="f", committed_offset=1
    )
    daemon.state.uploads["u"] = FakeUpload(upload, bytearray(b"x"))
    outcome = await imsctl("upload", "resume", "u", "disk.raw")
    assert outcome.code == 1
    assert "is not the file that upload u was begun with" in outcome.errors
    assert "[FAILED_PRECONDITION]\n  give the file it was begun with, or abort it" in outcome.errors
    assert "WriteUpload" not in daemon.state.calls
    assert "u" in daemon.state.uploads


async def test_the_file_an_import_began_with_resumes_its_upload(
    imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path
) -> None:
    content = disk(tmp_path, 6 * MIB)
    daemon.state.drop_at = [5 * MIB] * 50
    process = await imsctl.start("image", "import", "disk.raw", "--name", "web")
    await until(lambda: len(daemon.state.drop_at) < 48)
    process.send_signal(signal.SIGINT)
    await imsctl.finish(process)
    daemon.state.drop_at = []
    (upload_id,) = daemon.state.uploads
    outcome = await imsctl("upload", "resume", upload_id, "disk.raw", "-o", "json")
    assert outcome.code == 0, outcome.errors
    assert outcome.json["digest"] == digest_of(content)


async def test_resuming_a_complete_upload_says_so_and_how_an_image_is_made_of_it(
    imsctl: Imsctl, daemon: FakeDaemon
) -> None:
    upload = upload_pb2.Upload(id="u", state=upload_pb2.UPLOAD_STATE_COMMITTED, fingerprint="f")
    daemon.state.uploads["u"] = FakeUpload(upload)
    outcome = await imsctl("upload", "resume", "u", "missing")
    assert outcome.code == 0
    assert "upload u is complete, nothing was sent: `imsctl image import FILE --name NAME`" in outcome.errors
    assert "state    committed" in outcome.text


async def test_uploads_are_listed_and_aborted(imsctl: Imsctl, daemon: FakeDaemon) -> None:
    for name in "ab":
        message = upload_pb2.Upload(id=name, file_name=f"{name}.raw", state=upload_pb2.UPLOAD_STATE_OPEN)
        daemon.state.uploads[name] = FakeUpload(message)
    listed = await imsctl("upload", "list", "-o", "json")
    assert [upload["file_name"] for upload in listed.json] == ["b.raw", "a.raw"]
    outcome = await imsctl("upload", "abort", "a", "missing", "b")
    assert outcome.code == 1
    assert outcome.text == "aborted a\naborted b\n"
    assert "[NOT_FOUND]" in outcome.errors
    assert not daemon.state.uploads
