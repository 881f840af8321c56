"""What is kept until it is written: within a quota, gone afterwards, and no reason to fail."""

from __future__ import annotations

import os
import tempfile
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from imsd.chunks.spool import MIN_FREE_BYTES, SpoolFolder


def test_what_is_kept_comes_back_and_leaves_no_name(tmp_path: Path) -> None:
    with closing(SpoolFolder(tmp_path, 100).spool()) as spool:
        spool.keep(7, [b"one", memoryview(b"two")])
        spool.keep(0, [b"three"])
        assert spool.kept(7) == b"onetwo"
        assert spool.kept(0) == b"three"
        assert spool.kept(1) is None
        assert os.listdir(tmp_path) == []
    assert spool.kept(7) is None


def test_all_spools_share_a_quota_that_closing_gives_back(tmp_path: Path) -> None:
    folder = SpoolFolder(tmp_path, 10)
    first, second = folder.spool(), folder.spool()
    first.keep(0, [b"123456"])
    second.keep(0, [b"12345"])
    assert (first.kept(0), second.kept(0)) == (b"123456", None)
    second.keep(1, [b"1234"])
    assert second.kept(1) == b"1234"
    first.close()
    second.keep(2, [b"12345"])
    assert second.kept(2) == b"12345"
    second.close()
    assert folder.take(10)


def test_a_spool_that_is_not_used_makes_no_file(tmp_path: Path) -> None:
    with closing(SpoolFolder(tmp_path / "missing", 10).spool()) as spool:
        assert spool.kept(0) is None
    assert not (tmp_path / "missing").exists()


def test_without_a_directory_nothing_is_kept(tmp_path: Path) -> None:
    folder = SpoolFolder(tmp_path / "missing", 10)
    with closing(folder.spool()) as spool:
        spool.keep(0, [b"x"])
        assert spool.kept(0) is None
    assert folder.take(10)


def test_a_machine_without_a_folder_for_temporary_files_keeps_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_folder() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", no_folder)
    with closing(SpoolFolder(None, 10).spool()) as spool:
        spool.keep(0, [b"x"])
        assert spool.kept(0) is None


@pytest.mark.parametrize(("free", "is_kept"), [(MIN_FREE_BYTES + 3, True), (MIN_FREE_BYTES + 2, False)])
def test_a_file_system_is_not_filled_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, is_kept: bool
) -> None:
    monkeypatch.setattr(os, "fstatvfs", lambda _: SimpleNamespace(f_bavail=free, f_frsize=1))
    with closing(SpoolFolder(tmp_path, 100).spool()) as spool:
        spool.keep(0, [b"xyz"])
        assert (spool.kept(0) is not None) is is_kept


def test_what_was_written_in_part_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(SpoolFolder(tmp_path, 100).spool()) as spool:
        spool.keep(0, [b"whole"])
        monkeypatch.setattr(os, "pwritev", lambda *_: 1)
        spool.keep(1, [b"part"])
        monkeypatch.undo()
        spool.keep(2, [b"later"])
        assert [spool.kept(key) for key in (0, 1, 2)] == [b"whole", None, None]


def test_a_secret_spool_keeps_nothing_that_could_be_seen_on_the_disk(tmp_path: Path) -> None:
    content = b"what an encrypted image holds " * 100
    for is_secret in (False, True):
        with closing(SpoolFolder(tmp_path, 1 << 20).spool(is_secret=is_secret)) as spool:
            spool.keep(7, [content[:10], memoryview(content)[10:]])
            spool.keep(8, [content])
            assert (spool.kept(7), spool.kept(8)) == (content, content)
            written = os.pread(spool._fd, 1 << 20, 0)
            assert (b"encrypted image" in written) is not is_secret
            assert len(written) == 2 * (len(content) + 28 * is_secret)
            assert written[: len(written) // 2] != written[len(written) // 2 :] or not is_secret


def test_a_secret_spool_that_was_changed_on_the_disk_gives_nothing(tmp_path: Path) -> None:
    with closing(SpoolFolder(tmp_path, 1 << 20).spool(is_secret=True)) as spool:
        spool.keep(7, [b"content"])
        byte = os.pread(spool._fd, 1, 20)
        os.pwrite(spool._fd, bytes([byte[0] ^ 1]), 20)
        assert spool.kept(7) is None
