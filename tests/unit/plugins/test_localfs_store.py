"""What is special to a store in a directory: crashes, full and read-only disks, strange files."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from imsd_localfs.folders import Folders
from imsd_localfs.options import LocalBucketOptions, LocalStoreOptions
from imsd_localfs.store import open_local_store

from imsd.contract import (
    BlobStore,
    ByteRange,
    DataLoss,
    FailedPrecondition,
    ImsError,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    Unavailable,
    blob_id,
)

HERE = Path(__file__).parent
PACK = blob_id("packs/0a/0a11")


def options(tmp_path: Path) -> LocalStoreOptions:
    return LocalStoreOptions(path=tmp_path / "store")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[BlobStore]:
    async with open_local_store(options(tmp_path)) as store:
        yield store


async def put(store: BlobStore, blob: str = PACK, content: bytes = b"content") -> None:
    async with store.begin(blob_id(blob)) as ingest:
        await ingest.write([content])
        await ingest.commit()


async def ids(store: BlobStore) -> list[str]:
    return [stored.id async for stored in store.list()]


def child(script: str, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, str(HERE / script), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_a_blob_is_a_private_file_of_its_name(tmp_path: Path, store: BlobStore) -> None:
    await put(store)
    file = tmp_path / "store" / PACK
    assert file.read_bytes() == b"content"
    assert file.stat().st_mode & 0o777 == 0o600
    assert {folder.stat().st_mode & 0o777 for folder in file.parents[:3]} == {0o700}
    await store.delete(PACK)
    assert list((tmp_path / "store").iterdir()) == []


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize("is_unnamed", [True, False])
@pytest.mark.parametrize("mask", [0o077, 0o022, 0])
@pytest.mark.parametrize(
    ("said", "file_mode", "folder_mode"),
    [("", 0o640, 0o750), ("0664", 0o664, 0o775), ("600", 0o600, 0o700), ("0620", 0o620, 0o730)],
)
async def test_what_is_put_into_a_bucket_has_the_mode_that_was_asked_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: str,
    file_mode: int,
    folder_mode: int,
    mask: int,
    is_unnamed: bool,
) -> None:
    monkeypatch.setattr("imsd_localfs.store.offers_unnamed_files", lambda root_fd: is_unnamed)
    with umask(mask):
        options = LocalBucketOptions(path=tmp_path / "bucket")
        async with open_local_store(replace(options, file_mode=said) if said else options) as store:
            await put(store)
    file = tmp_path / "bucket" / PACK
    assert file.stat().st_mode & 0o777 == file_mode
    assert {folder.stat().st_mode & 0o777 for folder in file.parents[:3]} == {folder_mode}


async def test_a_bucket_that_hands_its_group_on_does_so_in_every_folder(tmp_path: Path) -> None:
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    if os.geteuid() == 0:
        os.chown(bucket, -1, 4711)
    bucket.chmod(0o2770)
    with umask(0o077):
        async with open_local_store(LocalBucketOptions(path=bucket)) as store:
            await put(store)
    file = bucket / PACK
    assert {file.parent.stat().st_mode & 0o7777, file.parents[1].stat().st_mode & 0o7777} == {0o2750}
    assert {each.stat().st_gid for each in (file, *file.parents[:2])} == {bucket.stat().st_gid}
    assert bucket.stat().st_mode & 0o7777 == 0o2770


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory to a group that this user is not in")
async def test_a_group_that_the_daemon_is_not_in_keeps_its_folders(tmp_path: Path) -> None:
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    os.chown(bucket, 65534, 4711)
    bucket.chmod(0o2770)
    async with open_local_store(LocalBucketOptions(path=bucket)) as store:
        with as_nobody(), umask(0o077):
            await put(store)
    folder = (bucket / PACK).parent.stat()
    assert (folder.st_mode & stat.S_ISGID, folder.st_gid) == (stat.S_ISGID, 4711)
    assert (bucket / PACK).stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("file_mode", ["0755", "0400", "rw-r-----", "", "06400", "0o640", "1640"])
def test_a_mode_that_cannot_be_is_refused(tmp_path: Path, file_mode: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        LocalStoreOptions(path=tmp_path, file_mode=file_mode)
    assert (refused.value.reason, refused.value.field) == ("INVALID_CONFIGURATION", "file_mode")


async def test_blobs_are_there_when_the_store_is_opened_again(tmp_path: Path) -> None:
    async with open_local_store(options(tmp_path)) as store:
        await put(store)
    async with open_local_store(options(tmp_path)) as store:
        assert await store.read(PACK, [ByteRange(0, 7)]) == [b"content"]


@pytest.mark.parametrize("files", ["unnamed", "named"])
async def test_a_killed_process_leaves_only_what_it_committed(tmp_path: Path, files: str) -> None:
    path = tmp_path / "store"
    with child("crash_in_an_ingest.py", str(path), files) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        if files == "named":
            # a second process that opens the store leaves the files of the living one alone
            async with open_local_store(options(tmp_path)):
                assert len(list((path / ".ingest").iterdir())) == 1
        process.kill()
    async with open_local_store(options(tmp_path)) as store:
        assert await ids(store) == ["whole"]
        assert (await store.usage()).used_bytes == 5
    left = [str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()]
    assert left == ["whole"]


def test_a_full_disk_is_said_and_nothing_partial_is_committed(tmp_path: Path) -> None:
    with child("fill_a_store.py", str(tmp_path / "store")) as process:
        output = process.communicate(timeout=60)[0]
    assert output.splitlines() == ["CAPACITY_EXHAUSTED", "not committed", "small"]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounting = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", path], capture_output=True)
    if mounting.returncode:
        pytest.skip(f"only who may mount can make a disk of 1 MiB: {mounting.stderr.decode().strip()}")
    yield path
    subprocess.run(["umount", path], check=True)


async def test_room_on_a_full_disk_comes_back_with_the_ingest(tiny_disk: Path) -> None:
    async with open_local_store(LocalStoreOptions(path=tiny_disk / "store")) as store:
        before = await store.usage()
        async with store.begin(PACK) as ingest:
            with pytest.raises(LimitExceeded) as caught:
                await ingest.write([bytes(2 << 20)])
            assert caught.value.reason == "CAPACITY_EXHAUSTED"
            with pytest.raises(FailedPrecondition):
                await ingest.commit()
        assert await store.usage() == before
        await put(store, PACK, bytes(500_000))
        assert (await store.usage()).used_bytes == 500_000


async def test_a_read_only_disk_can_be_read(tiny_disk: Path) -> None:
    opening = LocalStoreOptions(path=tiny_disk / "store")
    async with open_local_store(opening) as store:
        await put(store)
    remounting = await asyncio.create_subprocess_exec("mount", "-o", "remount,ro", tiny_disk)
    assert await remounting.wait() == 0
    async with open_local_store(opening) as store:
        assert await store.read(PACK, [ByteRange(0, 7)]) == [b"content"]
        for write in (put(store, "other"), store.delete(PACK)):
            with pytest.raises(FailedPrecondition) as caught:
                await write
            assert caught.value.reason == "STORE_READ_ONLY"


@contextmanager
def without_the_right_to_write(path: Path) -> Iterator[None]:
    path.chmod(0o500)
    if os.geteuid() == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(os.getuid())
        path.chmod(0o700)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, if the test has them."""
    if os.geteuid() == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(os.getuid())


@pytest.mark.parametrize("mode", [0o000, 0o744])
@pytest.mark.parametrize("options_type", [LocalBucketOptions, LocalStoreOptions])
async def test_a_private_folder_of_somebody_else_hides_nothing_else_of_a_bucket(
    tmp_path: Path, options_type: type[LocalStoreOptions], mode: int
) -> None:
    async with open_local_store(options_type(path=tmp_path / "store")) as store:
        for name in ("a/b", "private/c", "z"):
            await put(store, name)
        (tmp_path / "store").chmod(0o755)
        (tmp_path / "store" / "a").chmod(0o755)
        (tmp_path / "store" / "private").chmod(mode)
        with as_nobody():
            if options_type is LocalBucketOptions:
                assert await ids(store) == ["a/b", "z"]
                with pytest.raises(Unavailable) as refused:
                    await store.read(blob_id("private/c"), [ByteRange(0, 1)])
            else:  # of a store, nothing may be missed in silence
                with pytest.raises(Unavailable) as refused:
                    await ids(store)
        assert "owner and mode" in refused.value.hint
        (tmp_path / "store" / "private").chmod(0o700)


@pytest.mark.parametrize("most", [1, 2, 3, 100])
async def test_a_folder_of_any_size_is_listed_in_pieces(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr("imsd_localfs.listing.MAX_ENTRIES", most)
    names = sorted(["a", "a-b", "a.b/x", "b/c/d", "b/c/e", "b/c-d", "b/c.d", "b0", "c/1", "c/2", "c/3", "d"])
    for name in names:
        await put(store, name)
    for prefix in ("", "b", "b/", "b/c", "c/2", "x"):
        for after in ("", "a", "a-b", "b/c", "b/c/d", "c/1", "z"):
            expected = [name for name in names if name.startswith(prefix) and name > after]
            assert [stored.id async for stored in store.list(prefix, after)] == expected, (prefix, after)


async def test_a_directory_that_may_not_be_written_is_read_only(tmp_path: Path, store: BlobStore) -> None:
    with without_the_right_to_write(tmp_path / "store"), pytest.raises(FailedPrecondition) as caught:
        await put(store)
    assert caught.value.reason == "STORE_READ_ONLY"
    assert "owner and mode" in caught.value.hint
    await put(store)


@pytest.mark.parametrize(
    ("path", "said"),
    [("missing/store", "cannot be made"), ("file", "no directory"), ("file/store", "cannot")],
)
async def test_a_path_that_cannot_hold_a_store_is_refused(tmp_path: Path, path: str, said: str) -> None:
    (tmp_path / "file").write_text("not a directory")
    before = descriptors()
    with pytest.raises(InvalidRequest, match=said) as caught:
        async with open_local_store(LocalStoreOptions(path=tmp_path / path)):
            pass
    assert caught.value.reason == "INVALID_CONFIGURATION"
    assert descriptors() == before


@pytest.mark.parametrize(("key", "value"), [("threads", 0), ("threads", 65), ("open_files", 0)])
async def test_options_out_of_range_are_refused(tmp_path: Path, key: str, value: int) -> None:
    with pytest.raises(InvalidRequest, match=key):
        async with open_local_store(LocalStoreOptions(path=tmp_path, **{key: value})):  # type: ignore[arg-type]
            pass


async def test_strange_files_are_no_blobs(tmp_path: Path, store: BlobStore) -> None:
    await put(store)
    root = tmp_path / "store"
    (root / "lost+found").mkdir()
    (root / ".hidden").write_text("x")
    (root / "two words").write_text("x")
    (root / "link").symlink_to(root / PACK)
    (root / "folder-link").symlink_to(root / "packs")
    os.mkfifo(root / "pipe")
    assert await ids(store) == [PACK]
    for blob in ("link", "pipe"):
        with pytest.raises(NotFound):
            await store.stat(blob_id(blob))
        with pytest.raises(NotFound):
            await asyncio.wait_for(store.read(blob_id(blob), [ByteRange(0, 1)]), 5)


async def test_no_link_leads_out_of_the_directory(tmp_path: Path, store: BlobStore) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("x")
    (tmp_path / "store" / "folder").symlink_to(outside)
    (tmp_path / "store" / "a").mkdir()
    (tmp_path / "store" / "a" / "b").symlink_to(outside)
    for blob in ("folder/secret", "a/b/secret"):
        with pytest.raises(NotFound):
            await store.stat(blob_id(blob))
        with pytest.raises(NotFound):
            await store.read(blob_id(blob), [ByteRange(0, 1)])
        await store.delete(blob_id(blob))
    for blob in ("folder/new", "folder/deeper/new", "a/b/new"):
        with pytest.raises(FailedPrecondition):
            await put(store, blob)
    for prefix in ("", "folder/", "a/b/"):
        assert [stored async for stored in store.list(prefix)] == []
    assert [path.name for path in outside.iterdir()] == ["secret"]


async def test_a_file_that_another_program_puts_in_its_place_is_read(
    tmp_path: Path, store: BlobStore
) -> None:
    await put(store, "disk.RAW")
    old = await store.stat(blob_id("disk.RAW"))
    await store.read(old.id, [ByteRange(0, old.size_bytes)])
    (tmp_path / "other").write_bytes(bytes(old.size_bytes))
    os.rename(tmp_path / "other", tmp_path / "store" / "disk.RAW")
    assert (await store.stat(old.id)).version != old.version
    assert await store.read(old.id, [ByteRange(0, old.size_bytes)]) == [bytes(old.size_bytes)]
    with (tmp_path / "store" / "disk.RAW").open("ab") as file:
        file.write(b"more")
    assert await store.read(old.id, [ByteRange(old.size_bytes, 4)]) == [b"more"]


async def test_a_blob_that_was_cut_short_is_lost_data(tmp_path: Path, store: BlobStore) -> None:
    await put(store)
    await store.read(PACK, [ByteRange(0, 7)])
    os.truncate(tmp_path / "store" / PACK, 3)
    with pytest.raises(DataLoss):
        await store.read(PACK, [ByteRange(0, 7)])


async def test_a_blob_where_a_folder_should_be_is_refused(store: BlobStore) -> None:
    await put(store, "a")
    with pytest.raises(ImsError) as refused:
        await put(store, "a/b")
    assert "name of a folder" in refused.value.hint
    await put(store, "folder/b")
    with pytest.raises(ImsError):
        await put(store, "folder")
    assert await ids(store) == ["a", "folder/b"]


async def test_open_files_are_bounded_and_closed(tmp_path: Path) -> None:
    before = descriptors()
    opening = LocalStoreOptions(path=tmp_path / "store", open_files=3, fsync=False)
    async with open_local_store(opening) as store:
        for n in range(10):
            await put(store, f"packs/{n}")
        idle = descriptors()
        for n in range(10):
            await store.read(blob_id(f"packs/{n}"), [ByteRange(0, 7)])
        assert descriptors() == idle + 3
        await store.delete(blob_id("packs/9"))  # frees the bytes: nobody holds the file any more
        assert descriptors() == idle + 2
    assert descriptors() == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("localfs")]


async def test_cancelled_ingests_leave_no_descriptors(tmp_path: Path, store: BlobStore) -> None:
    async def write() -> None:
        async with store.begin(PACK) as ingest:
            await ingest.write([bytes(100_000)])
            await asyncio.sleep(60)

    before = descriptors()
    tasks = []
    for turns in range(20):
        tasks.append(asyncio.create_task(write()))
        for _ in range(turns):
            await asyncio.sleep(0)
        tasks[-1].cancel()
        tasks[-1].cancel()
    await asyncio.wait(tasks)
    await store.usage()
    await asyncio.sleep(0.1)
    assert descriptors() == before
    assert await ids(store) == []


class Syncs:
    """Counts fsync by what was synced, relative to ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths: list[str] = []

    def fsync(self, fd: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        self.paths.append(str(path.relative_to(self.root)) if path.is_dir() else "bytes")


async def test_bytes_are_synced_before_names_and_each_folder_once(
    tmp_path: Path, store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs = Syncs(tmp_path / "store")
    monkeypatch.setattr(os, "fsync", syncs.fsync)
    monkeypatch.setattr(os, "fdatasync", syncs.fsync)
    await put(store, "packs/0a/1")
    assert syncs.paths == ["bytes", "packs/0a", "packs", "."]
    syncs.paths.clear()
    await put(store, "packs/0a/2")
    await put(store, "packs/0b/1")
    assert syncs.paths == ["bytes", "packs/0a", "bytes", "packs/0b", "packs"]
    syncs.paths.clear()
    await store.delete(blob_id("packs/0b/1"))
    await put(store, "packs/0b/1")  # the folder is a new one
    assert syncs.paths == ["bytes", "packs/0b", "packs"]


def test_a_folder_removed_by_another_process_is_made_again(tmp_path: Path) -> None:
    """Two trees on one directory, as of two processes: one makes folders, the other removes them."""
    root_fd = os.open(tmp_path, os.O_RDONLY)
    (tmp_path / "source").write_bytes(b"x")
    ours, theirs = (Folders(root_fd, file_mode=0o600, fsync=is_synced) for is_synced in (True, False))
    stop = threading.Event()

    def remove() -> None:
        while not stop.is_set():
            for name in ("a/b/c/blob", "a/b/other"):
                try:
                    theirs.unlink(name)
                except FileNotFoundError:
                    continue

    remover = threading.Thread(target=remove)
    remover.start()
    try:
        for n in range(60):
            ours.link(str(tmp_path / "source"), ("a/b/c/blob", "a/b/other")[n % 2])
            while (tmp_path / ("a/b/c/blob", "a/b/other")[n % 2]).exists():
                stop.wait(0.0001)
    finally:
        stop.set()
        remover.join()
        os.close(root_fd)
    assert not (tmp_path / "a/b/c").exists()
