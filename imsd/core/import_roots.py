"""Files of the daemon's machine that a request may name: those below the directories of `import_roots`.

A path is walked component by component, each opened below the one before without following a symbolic link,
so nobody who can write below a root leads the daemon out of it. Devices, pipes and sockets are looked at, not
opened.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Final

from imsd.chunks.decode_pool import DecodePool
from imsd.contract import FailedPrecondition, InvalidRequest, NotFound, PermissionDenied, run_blocking

from .caller import EVERY_PROJECT
from .feeds import Feed, FeedStep, OpenedFeed
from .file_blocks import changed
from .handed_files import HandedFile
from .limits import MAX_FILE_NAME
from .places import lies_in

FIELD: Final = "local_path"
MAX_PATH_BYTES: Final = 4096
HOW_TO_ALLOW: Final = "an operator allows a directory with import_roots in the configuration of the daemon"

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class ImportRoots:
    """``roots``: absolute paths; they themselves may be, or lie behind, symbolic links.

    ``closed``: what is not read although it lies below a root: the daemon's own, and buckets, which are for
    their projects. ``projects``: of some roots,
    the only projects that may name what lies there, or "*" for every one.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        closed: Sequence[Path] = (),
        projects: Mapping[Path, Collection[str]] = MappingProxyType({}),
    ) -> None:
        self._closed = closed
        self._projects = projects
        self._of_others: frozenset[Path] = frozenset()
        self._roots = sorted(roots, key=lambda root: len(root.parts), reverse=True)

    def of_project(self, project_id: str) -> ImportRoots:
        """As a project may use them: to it the roots of others are none, nor is what lies below them."""
        found = ImportRoots(self._roots, self._closed, self._projects)
        asking = {project_id, EVERY_PROJECT}
        found._of_others = frozenset(
            root for root, projects in self._projects.items() if asking.isdisjoint(projects)
        )
        return found

    def check(self, path: str) -> tuple[Path, Sequence[str]]:
        """The root that ``path`` lies below, and the names from there on.

        Raises FailedPrecondition, InvalidRequest, PermissionDenied.
        """
        if not self._roots:
            raise FailedPrecondition("this daemon imports no files of its machine", hint=HOW_TO_ALLOW)
        names = path.split("/")[1:]
        is_plain = path.startswith("/") and not {"", ".", ".."} & set(names)
        if not is_plain or "\0" in path or len(os.fsencode(path)) > MAX_PATH_BYTES:
            raise InvalidRequest(
                "the path is no plain absolute path",
                field=FIELD,
                hint="begin it with / and leave out //, . and ..",
            )
        for root in self._roots:
            inside = names[len(root.parts) - 1 :]
            if inside and root.parts[1:] == tuple(names[: len(root.parts) - 1]):
                if root in self._of_others:
                    break  # also where it lies below a root that is open
                return root, inside
        raise PermissionDenied("the path lies below no root of imports", field=FIELD, hint=HOW_TO_ALLOW)

    def open(self, path: str) -> int:
        """A descriptor of the regular file, for the caller to close. Blocks.

        Raises as `check`, and NotFound.
        """
        root, names = self.check(path)
        if any(lies_in(root.joinpath(*names), place) for place in self._closed):
            raise PermissionDenied(
                "the path leads to what is the daemon's own, or into a bucket",
                field=FIELD,
                hint="name the file of an image elsewhere; one in a bucket is imported as its object",
            )
        with _failures(), ExitStack() as folders:
            folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            folders.callback(os.close, folder)
            for name in names[:-1]:
                folder = os.open(name, _FOLDER, dir_fd=folder)
                folders.callback(os.close, folder)
            found = os.open(names[-1], _FILE, dir_fd=folder)
            folders.callback(os.close, found)
            if not stat.S_ISREG(os.fstat(found).st_mode):
                raise InvalidRequest(
                    "only a regular file can be imported", field=FIELD, hint="name the file, not a link to it"
                )
            return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


class LocalFeed(Feed):
    """A file below one of the roots; its holes are not read."""

    def __init__(self, roots: ImportRoots, path: str, pool: DecodePool, part_bytes: int) -> None:
        """Raises as `ImportRoots.check`."""
        roots.check(path)
        self._roots = roots
        self._path = path
        self._pool = pool
        self._part_bytes = part_bytes
        self.name = path.rpartition("/")[2][-MAX_FILE_NAME:]

    @asynccontextmanager
    async def open(self, offset: int) -> AsyncIterator[OpenedFeed]:
        fd = await run_blocking(self._roots.open, self._path)
        # Its file system is the operator's choice: a file of an NFS server is taken too.
        with HandedFile(fd, os.fstat(fd)) as file:
            yield _OpenedFile(file, file.steps(offset, self._pool, self._part_bytes))


class _OpenedFile(OpenedFeed):
    def __init__(self, file: HandedFile, steps: AsyncGenerator[FeedStep, None]) -> None:
        status = file.status
        told = f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns}"
        self.size_bytes = status.st_size
        self.mark = f"file:{sha256(told.encode()).hexdigest()}"
        self._steps = steps

    def require_same(self, mark: str) -> None:
        if mark != self.mark:
            raise changed()

    def steps(self) -> AsyncGenerator[FeedStep, None]:
        return self._steps


@contextmanager
def _failures() -> Iterator[None]:
    """What the system says of a path, told without a path."""
    try:
        yield
    except PermissionError as error:
        raise PermissionDenied(
            "the daemon may not read the file", field=FIELD, hint="let the user of the daemon read it"
        ) from error
    except OSError as error:
        raise NotFound(
            f"the file cannot be opened: {error.strerror}",
            field=FIELD,
            hint="symbolic links below a root are not followed: name the file itself",
        ) from error
