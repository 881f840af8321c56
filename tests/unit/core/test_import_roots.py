"""Files of the daemon's machine: only regular ones, only below a root, by no link and no trick."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imsd.chunks.decode_pool import DecodePool
from imsd.contract import FailedPrecondition, ImsError, InvalidRequest, NotFound, PermissionDenied
from imsd.core.file_blocks import FileRange
from imsd.core.import_roots import ImportRoots, LocalFeed

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    pool = DecodePool(1)
    yield pool
    pool.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images" / "deep").mkdir(parents=True)
    (tmp_path / "images" / "deep" / "disk").write_bytes(b"a disk")
    (tmp_path / "secret").write_bytes(b"a secret")
    return tmp_path / "images"


def read(roots: ImportRoots, path: str | Path) -> bytes:
    fd = roots.open(str(path))
    try:
        return os.read(fd, 100)
    finally:
        os.close(fd)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_file_below_a_root_is_opened(root: Path) -> None:
    assert read(ImportRoots([root]), root / "deep" / "disk") == b"a disk"
    assert read(ImportRoots([root.parent, root / "deep"]), root / "deep" / "disk") == b"a disk"
    assert read(ImportRoots([Path("/")]), root / "deep" / "disk") == b"a disk"


def test_a_root_may_be_a_link(root: Path) -> None:
    link = root.parent / "link"
    link.symlink_to(root)
    assert read(ImportRoots([link]), link / "deep" / "disk") == b"a disk"


def test_a_root_may_be_for_some_projects_only(root: Path) -> None:
    inside, beside = root / "deep" / "disk", root / "disk"
    beside.write_bytes(b"for all")
    roots = ImportRoots([root, root / "deep"], projects={root / "deep": ("lab", "web")})
    for project_id in ("lab", "web", "green"):
        assert read(roots.of_project(project_id), beside) == b"for all"
    assert read(roots.of_project("lab"), inside) == b"a disk"
    nowhere = refusal(roots.of_project("green"), root.parent / "secret")
    assert refusal(roots.of_project("green"), inside) == nowhere == refusal(roots.of_project("*"), inside)
    everybody = ImportRoots([root], projects={root: ("*",)})
    assert read(everybody.of_project("green"), inside) == b"a disk"
    nobody = ImportRoots([root], projects={root: ()})
    assert refusal(nobody.of_project("green"), inside) == nowhere


def refusal(roots: ImportRoots, path: Path) -> tuple[str, str]:
    with pytest.raises(PermissionDenied) as refused:
        roots.open(str(path))
    return refused.value.message, refused.value.hint


def test_without_roots_the_hint_says_how_to_have_some(root: Path) -> None:
    with pytest.raises(FailedPrecondition) as refused:
        ImportRoots([]).check(str(root / "deep" / "disk"))
    assert "import_roots" in refused.value.hint


@pytest.mark.parametrize(
    "path",
    [
        "",
        "disk",
        "./disk",
        "~/disk",
        "{root}/../secret",
        "{root}/deep/../../secret",
        "{root}/./deep/disk",
        "{root}//deep/disk",
        "//{root}/deep/disk",
        "{root}/deep/",
        "{root}/",
        "{root}/deep/disk\0",
        "{root}/" + "x/" * 2100 + "x",
    ],
)
def test_a_path_that_is_not_plain_is_refused(root: Path, path: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        ImportRoots([root]).open(path.replace("{root}", str(root)))
    assert refused.value.field == "local_path"


@pytest.mark.parametrize("path", ["/etc/passwd", "{parent}/secret", "{root}", "{root}x/disk", "/"])
def test_a_path_outside_of_every_root_is_refused(root: Path, path: str) -> None:
    path = path.replace("{root}", str(root)).replace("{parent}", str(root.parent))
    with pytest.raises(ImsError) as refused:
        ImportRoots([root]).open(path)
    assert refused.value.reason in ("PERMISSION_DENIED", "INVALID_REQUEST")


@pytest.mark.parametrize("closed", ["{root}/deep", "{root}/deep/disk", "{root}", "/", "{link}/deep"])
def test_what_is_the_daemons_own_is_not_read_though_it_lies_below_a_root(root: Path, closed: str) -> None:
    link = root.parent / "another-name"
    link.symlink_to(root)
    place = Path(closed.format(root=root, link=link))
    with pytest.raises(PermissionDenied) as refused:
        ImportRoots([root.parent], [root / "other", place]).open(str(root / "deep" / "disk"))
    assert (refused.value.field, bool(refused.value.hint)) == ("local_path", True)
    assert read(ImportRoots([root.parent], [root / "dee", root / "missing"]), root / "deep" / "disk")


def a_link(root: Path) -> Path:
    (root / "link").symlink_to(root / "deep" / "disk")
    return root / "link"


def a_link_out(root: Path) -> Path:
    (root / "link").symlink_to("../secret")
    return root / "link"


def behind_a_link(root: Path) -> Path:
    (root / "link").symlink_to("..")
    return root / "link" / "secret"


def a_pipe(root: Path) -> Path:
    os.mkfifo(root / "pipe")
    return root / "pipe"


def a_socket(root: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(root / "s"))
    return root / "s"


def a_folder(root: Path) -> Path:
    return root / "deep"


def nothing(root: Path) -> Path:
    return root / "deep" / "nothing"


def below_a_file(root: Path) -> Path:
    return root / "deep" / "disk" / "x"


@pytest.mark.parametrize(
    "make", [a_link, a_link_out, behind_a_link, a_pipe, a_socket, a_folder, nothing, below_a_file]
)
def test_only_a_regular_file_that_no_link_leads_to_is_opened(
    root: Path, make: Callable[[Path], Path]
) -> None:
    path = make(root)
    before = open_descriptors()
    with pytest.raises((NotFound, InvalidRequest)) as refused:
        ImportRoots([root]).open(str(path))
    assert refused.value.hint
    assert str(root) not in refused.value.message
    assert open_descriptors() == before


def test_a_device_is_not_opened() -> None:
    with pytest.raises(InvalidRequest, match="regular file"):
        ImportRoots([Path("/dev")]).open("/dev/null")


def test_a_file_that_the_daemon_may_not_read_is_told_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionDenied, match="may not read"):
        ImportRoots([root]).open(str(root / "deep" / "disk"))


def test_no_descriptor_stays_open(root: Path) -> None:
    before = open_descriptors()
    for _ in range(5):
        assert read(ImportRoots([root]), root / "deep" / "disk")
    assert open_descriptors() == before


@given(st.lists(st.sampled_from(["..", ".", "", "images", "deep", "secret", "disk"]), max_size=6))
def test_no_path_leads_to_what_lies_beside_the_root(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    top = tmp_path_factory.getbasetemp() / "beside"
    root = top / "images"
    (root / "deep").mkdir(parents=True, exist_ok=True)
    (root / "deep" / "disk").write_bytes(b"a disk")
    (top / "secret").write_bytes(b"a secret")
    path = "/".join([str(root), *names])
    content = b""
    try:
        content = read(ImportRoots([root]), path)
    except ImsError:
        assert path != str(root / "deep" / "disk")
    assert content in (b"", b"a disk")


async def steps_of(feed: LocalFeed, offset: int) -> tuple[bytes, int]:
    """The bytes from ``offset`` on, and how many of them were told as a number of zeros."""
    content, zeros = bytearray(), 0
    async with feed.open(offset) as opened, aclosing(opened.steps()) as steps:
        async for step in steps:
            if isinstance(step, FileRange):
                content += step.blocks.content(step.start, step.end - step.start)
            elif isinstance(step, int):
                content, zeros = content + bytes(step), zeros + step
            else:
                content += step
    return bytes(content), zeros


@pytest.mark.parametrize("offset", [0, 5, 4096, 3 * MIB + 1])
async def test_a_file_is_fed_from_an_offset_without_its_holes(
    root: Path, pool: DecodePool, offset: int
) -> None:
    disk = random.Random(1).randbytes(3 * MIB + 77)
    path = root / "sparse"
    path.write_bytes(disk)
    os.truncate(path, 20 * MIB + 5)
    feed = LocalFeed(ImportRoots([root]), str(path), pool, MIB)
    content, zeros = await steps_of(feed, offset)
    assert content == (disk + bytes(20 * MIB + 5 - len(disk)))[offset:]
    assert zeros > 16 * MIB
    assert feed.name == "sparse"


async def test_a_file_is_known_again_until_it_is_changed(root: Path, pool: DecodePool) -> None:
    path = root / "deep" / "disk"
    feed = LocalFeed(ImportRoots([root]), str(path), pool, MIB)
    async with feed.open(0) as opened:
        mark = opened.mark
        assert opened.size_bytes == 6
    async with feed.open(3) as opened:
        opened.require_same(mark)
    os.utime(path, (1, 1))
    async with feed.open(3) as opened:
        with pytest.raises(FailedPrecondition):
            opened.require_same(mark)


async def test_a_file_that_is_changed_while_it_is_read_is_refused(root: Path, pool: DecodePool) -> None:
    path = root / "growing"
    path.write_bytes(bytes(range(256)) * 4 * KIB * 4)
    feed = LocalFeed(ImportRoots([root]), str(path), pool, MIB)
    async with feed.open(0) as opened, aclosing(opened.steps()) as steps:
        await anext(steps)
        with path.open("ab") as file:
            file.write(b"more")
        with pytest.raises(FailedPrecondition):
            await anext(steps)
