"""A file of which images of the project hold most: the rest is sent, and a digest opens nothing."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from imsd.chunks.file_chunks import FileChunk, FileChunks
from imsd.v1 import image_pb2, job_pb2, upload_pb2
from tests.end_to_end.cut_connection import Cut
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import MIB, as_qcow2, patterned_disk, random_disk
from tests.end_to_end.wire import (
    Step,
    commit,
    download,
    ended,
    header,
    import_disk,
    open_upload,
    reason_of,
    start_image,
    steps_of,
    write,
)

DISK = random_disk(24 * MIB)
StartDaemon = Callable[..., DaemonProcess]


def changed(disk: bytes, runs: int, seed: int = 7) -> bytes:
    """``disk`` with so many runs of 1 MiB changed, each at its own 4 KiB step."""
    chance = random.Random(seed)
    new = bytearray(disk)
    for number in range(runs):
        share = len(disk) // runs
        start = number * share + chance.randrange((share - MIB) // 4096) * 4096
        new[start : start + MIB] = chance.randbytes(MIB)
    return bytes(new)


def import_delta(address: str, path: Path, *options: str) -> tuple[dict[str, Any], str]:
    result = run_import(address, path, *options)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout), result.stderr


def run_import(address: str, path: Path | str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "imsctl", "image", "import", str(path), "-o", "json", *options]
    environment = os.environ | {"IMSD_ADDRESS": address}
    return subprocess.run(
        command,
        env=environment,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=100,
        check=False,
    )


def named(upload: upload_pb2.Upload, disk: bytes) -> list[upload_pb2.UploadChunk]:
    return [
        upload_pb2.UploadChunk(digest=chunk.digest, length=chunk.length, proof=chunk.proof)
        for chunk in cut(upload, disk)
    ]


def cut(upload: upload_pb2.Upload, disk: bytes) -> list[FileChunk]:
    chunks = FileChunks(upload.proof_key)
    return [*chunks.data(disk), *chunks.end()]


def known(chunks: list[upload_pb2.UploadChunk]) -> Step:
    return Step(known=Step.KnownChunks(chunks=chunks))


async def find(stubs: Stubs, upload: upload_pb2.Upload, chunks: list[upload_pb2.UploadChunk]) -> list[bool]:
    request = upload_pb2.FindUploadChunksRequest(
        project_id=upload.project_id, upload_id=upload.id, chunks=chunks
    )
    return list((await stubs.uploads.FindUploadChunks(request)).known)


async def refused(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call
    return reason_of(failure.value)


# -- as a user --------------------------------------------------------------------------------------------


def test_a_disk_of_which_two_percent_changed_sends_less_than_four(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = start_daemon()
    disk = random_disk(100 * MIB)
    (tmp_path / "first.raw").write_bytes(disk)
    import_delta(daemon.address, tmp_path / "first.raw", "--name", "first")
    (tmp_path / "second.raw").write_bytes(second := changed(disk, 2))
    cut = Cut(tmp_path, daemon)
    image, said = import_delta(cut.address, tmp_path / "second.raw", "--name", "second", "--delta")
    cut.close()
    assert cut.sent_bytes < 0.04 * len(disk)
    assert "not sent" in said
    daemon.imsctl("image", "download", image["id"], "-o", str(tmp_path / "back.raw"))
    assert (tmp_path / "back.raw").read_bytes() == second
    assert image["digest"] == daemon.imsctl_json("image", "digest", str(tmp_path / "second.raw"))["digest"]


def test_a_disk_with_an_odd_end_is_compared_when_that_is_wanted(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = start_daemon()
    (tmp_path / "disk.raw").write_bytes(patterned_disk(32 * MIB + 700))
    import_delta(daemon.address, tmp_path / "disk.raw", "--name", "first")
    for option, is_compared in (("--delta", True), ("--no-delta", False)):
        (tmp_path / option).mkdir()
        cut = Cut(tmp_path / option, daemon)
        image, _ = import_delta(cut.address, tmp_path / "disk.raw", "--name", "again", option)
        cut.close()
        assert (cut.sent_bytes < MIB) == is_compared
        assert image["virtual_size"] == 32 * MIB + 1024


@pytest.mark.parametrize("what", ["stream", "qcow2"])
def test_what_cannot_be_compared_is_told(daemon: DaemonProcess, tmp_path: Path, what: str) -> None:
    path: Path | str = "-"
    if what == "qcow2":
        path = tmp_path / "disk.img"
        path.write_bytes(as_qcow2(tmp_path, patterned_disk(MIB)))
    result = run_import(daemon.address, path, "--name", "x", "--delta")
    assert result.returncode == 2
    assert "--delta" in result.stderr
    assert ("read once" in result.stderr) if what == "stream" else ("qcow2" in result.stderr)
    assert daemon.imsctl_json("upload", "list") == []


# -- on the wire ------------------------------------------------------------------------------------------


async def test_named_chunks_make_the_same_image(stubs: Stubs) -> None:
    first = await import_disk(stubs, DISK)
    upload = await open_upload(stubs, size_bytes=len(DISK))
    chunks = named(upload, DISK)
    assert await find(stubs, upload, chunks) == [True] * len(chunks)
    steps = [known(chunks[start : start + 20]) for start in range(0, len(chunks), 20)]
    answers = await write(stubs, [header(upload), *steps, Step(flush=Step.Flush())])
    assert answers[-1].committed_offset == len(DISK)
    job = await ended(stubs, await start_image(stubs, await commit(stubs, upload, len(DISK))))
    assert job.state == job_pb2.JOB_STATE_SUCCESS
    image = await stubs.images.GetImage(image_pb2.GetImageRequest(image_id=job.image_ids[0]))
    assert (image.digest, image.new_size_bytes) == (first.digest, 0)
    assert await download(stubs, image.id) == DISK


async def test_a_digest_is_no_proof(stubs: Stubs) -> None:
    await import_disk(stubs, DISK)
    upload, other = await open_upload(stubs), await open_upload(stubs)
    chunks = named(upload, DISK)[:4]
    wrong = [
        upload_pb2.UploadChunk(digest=chunks[0].digest, length=chunks[0].length, proof=bytes(32)),
        upload_pb2.UploadChunk(digest=chunks[1].digest, length=chunks[1].length, proof=chunks[1].digest),
        upload_pb2.UploadChunk(digest=chunks[2].digest, length=chunks[2].length + 1, proof=chunks[2].proof),
        named(other, DISK)[3],  # proved for another upload
    ]
    assert await find(stubs, upload, wrong) == [False] * 4
    for each in wrong:
        assert await refused(write(stubs, [header(upload), known([each])])) == "CHUNK_UNKNOWN"
    # The upload goes on with bytes.
    answers = await write(stubs, [header(upload), *steps_of(DISK[:MIB])])
    assert answers[-1].committed_offset == MIB


async def test_images_of_other_projects_are_not_known(stubs: Stubs) -> None:
    await import_disk(stubs, DISK, project_id="alpha")
    upload = await open_upload(stubs, project_id="beta")
    assert not any(await find(stubs, upload, named(upload, DISK)))
    chunk = named(upload, DISK)[0]
    assert await refused(write(stubs, [header(upload), known([chunk])])) == "CHUNK_UNKNOWN"
    elsewhere = upload_pb2.FindUploadChunksRequest(project_id="alpha", upload_id=upload.id, chunks=[chunk])
    assert await refused(stubs.uploads.FindUploadChunks(elsewhere)) == "NOT_FOUND"


async def test_what_is_no_chunk_is_refused(stubs: Stubs) -> None:
    upload = await open_upload(stubs)
    good = upload_pb2.UploadChunk(digest=bytes(32), length=4096, proof=bytes(32))
    for chunks in (
        [],
        [good] * 513,
        [upload_pb2.UploadChunk(digest=bytes(31), length=4096, proof=bytes(32))],
        [upload_pb2.UploadChunk(digest=bytes(32), length=4096, proof=bytes(33))],
        [upload_pb2.UploadChunk(digest=bytes(32), length=0, proof=bytes(32))],
        [upload_pb2.UploadChunk(digest=bytes(32), length=-1, proof=bytes(32))],
        [upload_pb2.UploadChunk(digest=bytes(32), length=(512 << 10) + 1, proof=bytes(32))],
    ):
        assert await refused(find(stubs, upload, chunks)) == "INVALID_REQUEST"
    for named_at_once in ([], [good] * 65):
        assert await refused(write(stubs, [header(upload), known(named_at_once)])) == "INVALID_REQUEST"


async def test_only_open_uploads_of_ordinary_imports_know_chunks(stubs: Stubs) -> None:
    await import_disk(stubs, DISK)
    fast = await open_upload(stubs, is_fast=True, disk_format=image_pb2.DISK_FORMAT_RAW)
    assert not any(await find(stubs, fast, named(fast, DISK)[:20]))
    upload = await open_upload(stubs)
    chunks = named(upload, DISK[:MIB])
    await write(stubs, [header(upload), *steps_of(DISK[:MIB])])
    committed = await commit(stubs, upload, MIB)
    assert committed.proof_key == b""
    assert await refused(find(stubs, upload, chunks)) == "FAILED_PRECONDITION"


async def test_a_chunk_that_was_found_stays_though_its_image_goes(
    daemon: DaemonProcess, stubs: Stubs
) -> None:
    image = await import_disk(stubs, DISK)
    upload = await open_upload(stubs, size_bytes=len(DISK))
    chunks = named(upload, DISK)
    assert all(await find(stubs, upload, chunks))
    daemon.imsctl("image", "delete", image.id, "--now")
    steps = [known(chunks[start : start + 64]) for start in range(0, len(chunks), 64)]
    answers = await write(stubs, [header(upload), *steps, Step(flush=Step.Flush())])
    assert answers[-1].committed_offset == len(DISK)


async def test_a_damaged_chunk_is_sent_and_stored_anew(daemon: DaemonProcess, stubs: Stubs) -> None:
    await import_disk(stubs, DISK)
    for pack in sorted((daemon.store / "packs").rglob("*/*")):
        content = bytearray(pack.read_bytes())
        content[len(content) // 2] ^= 1
        pack.chmod(0o600)
        pack.write_bytes(content)
    upload = await open_upload(stubs, size_bytes=len(DISK))
    chunks = named(upload, DISK)
    found = await find(stubs, upload, chunks)
    assert False in found
    image = await import_disk(stubs, DISK)  # nothing of the damaged packs is trusted
    assert await download(stubs, image.id) == DISK


async def test_a_kill_in_the_middle_loses_nothing(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(upload_part_bytes=8 * MIB)
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        await import_disk(stubs, DISK)
        upload = await open_upload(stubs, size_bytes=len(DISK))
        chunks = named(upload, DISK)
        await write(stubs, [header(upload), known(chunks[:64]), Step(flush=Step.Flush())])
    await asyncio.to_thread(daemon.kill)
    await asyncio.to_thread(daemon.start)
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        upload = await stubs.uploads.GetUpload(upload_pb2.GetUploadRequest(upload_id=upload.id))
        assert upload.committed_offset == sum(chunk.length for chunk in chunks[:64])
        assert all(await find(stubs, upload, chunks[64:]))  # the proofs are good still
        rest = [known(chunks[start : start + 64]) for start in range(64, len(chunks), 64)]
        await write(stubs, [header(upload), *rest, Step(flush=Step.Flush())])
        job = await ended(stubs, await start_image(stubs, await commit(stubs, upload, len(DISK))))
        assert await download(stubs, job.image_ids[0]) == DISK
