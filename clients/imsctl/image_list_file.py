"""Writing the list of images that a daemon streams to a file, which appears when it is whole."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

from ims_client import ClientError, Piece, write_file

from imsd.v1 import image_pb2

from .output import print_fields, print_json
from .session import Session
from .target import check_target

Messages = AsyncIterator[image_pb2.ExportImageListResponse]


async def write_list(session: Session, messages: Messages, to: str, *, may_replace: bool) -> None:
    """``to``: a file, ``-``, or empty for the name that the daemon gives. Raises ClientError."""
    first = await anext(messages)
    if to == "-":
        async for message in messages:
            sys.stdout.buffer.write(message.data)
        sys.stdout.flush()
        return
    path = to or _plain(first.file_name)
    check_target(path, may_replace=may_replace, option="--to")
    source = _ListBytes(messages)
    await write_file(source, Path(path))
    if session.is_json:
        print_json({"file": path, "file_size": source.position})
    else:
        print_fields({"file": path})


class _ListBytes:
    """The file as pieces; its size is known only at its end."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages
        self.position = 0
        self.size_bytes = 0

    async def pieces(self) -> AsyncIterator[Piece]:
        async for message in self._messages:
            if message.data:
                yield Piece(self.position, len(message.data), memoryview(message.data))
                self.position += len(message.data)


def _plain(name: str) -> str:
    """The name that a daemon gives, if it is one and no path. Raises ClientError."""
    if not name or name != Path(name).name or not name.isprintable() or name.startswith((".", "-")):
        raise ClientError("INTERNAL", f"the daemon names no file: {name[:80]!r}", "say where with --to FILE")
    return name
