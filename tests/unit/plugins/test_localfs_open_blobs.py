"""The descriptors that stay open between reads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from imsd_localfs.open_blobs import OpenBlobs


@pytest.fixture
def root_fd(tmp_path: Path) -> Iterator[int]:
    for n in range(8):
        (tmp_path / f"{n}").write_bytes(bytes([n]) * 100)
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def first_byte(blobs: OpenBlobs, name: str) -> int:
    with blobs.reading(name) as blob:
        assert blob.size_bytes == 100
        return os.pread(blob.fd, 1, 0)[0]


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_a_blob_is_opened_once(root_fd: int) -> None:
    blobs = OpenBlobs(root_fd, 2)
    with blobs.reading("1") as first, blobs.reading("1") as second:
        assert first.fd == second.fd
    assert is_open(first.fd)
    blobs.close()
    assert not is_open(first.fd)


def test_the_least_recently_used_is_closed_first(root_fd: int) -> None:
    blobs = OpenBlobs(root_fd, 2)
    fds = {}
    for name in ("1", "2", "1", "3"):
        with blobs.reading(name) as blob:
            fds[name] = blob.fd
    with blobs.reading("1") as blob:
        assert blob.fd == fds["1"]
    assert is_open(fds["3"])
    blobs.close()


def test_a_blob_in_use_outlives_its_eviction_and_its_deletion(root_fd: int, tmp_path: Path) -> None:
    blobs = OpenBlobs(root_fd, 1)
    with blobs.reading("1") as evicted, blobs.reading("2") as dropped:
        (tmp_path / "2").unlink()
        blobs.drop("2")
        assert os.pread(evicted.fd, 1, 0) == b"\x01"
        assert os.pread(dropped.fd, 1, 0) == b"\x02"
    assert not is_open(evicted.fd)
    assert not is_open(dropped.fd)
    with pytest.raises(FileNotFoundError), blobs.reading("2"):
        pass
    blobs.close()


def test_a_blob_deleted_while_it_is_opened_is_not_kept(
    root_fd: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = OpenBlobs(root_fd, 2)
    really_open = os.open

    def open_then_delete(*arguments: object, **named: object) -> int:
        fd = really_open(*arguments, **named)  # type: ignore[arg-type]
        if arguments[0] == "1":  # and not the folder that it is in
            (tmp_path / "1").unlink()
            blobs.drop("1")
        return fd

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", open_then_delete)
        with blobs.reading("1") as blob:
            assert os.pread(blob.fd, 1, 0) == b"\x01"
    assert not is_open(blob.fd)
    with pytest.raises(FileNotFoundError), blobs.reading("1"):
        pass
    blobs.close()


def test_threads_never_read_another_blobs_bytes(root_fd: int) -> None:
    blobs = OpenBlobs(root_fd, 2)
    names = [str(n % 8) for n in range(4000)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda name: first_byte(blobs, name), names)) == [int(name) for name in names]
    blobs.close()
