"""The way to a file of the store, folder by folder: no symbolic link is followed.

Other people may write in a bucket. Whoever could put a link there would lead the daemon to files that only
the daemon may read or write. All functions block.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def folder_of(root_fd: int, name: str) -> Iterator[tuple[int, str]]:
    """A descriptor of the folder that ``name`` ('a/b/c') lies in, and its last segment.

    The descriptor is good for calls that take one beside a name. Raises OSError: ENOENT, ENOTDIR for a link.
    """
    *folders, last = name.split("/")
    fd = os.open(".", _FOLDER, dir_fd=root_fd)
    try:
        for folder in folders:
            inner = os.open(folder, _FOLDER, dir_fd=fd)
            os.close(fd)
            fd = inner
        yield fd, last
    finally:
        os.close(fd)
