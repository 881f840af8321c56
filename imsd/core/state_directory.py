"""The state directory belongs to one daemon at a time."""

from __future__ import annotations

import fcntl
import os
import secrets
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imsd.contract import FailedPrecondition, InvalidRequest

from .limits import UUID

_SECRET_BYTES = 32


@contextmanager
def locked_state_directory(path: Path) -> Iterator[Path]:
    """Create the directory if need be and keep others out of it.

    The kernel drops the lock with the process, so a crash leaves none behind.
    Raises FailedPrecondition (STATE_DIRECTORY_IN_USE), InvalidRequest (INVALID_CONFIGURATION).
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InvalidRequest(
            f"the state directory {path} cannot be used: {error.strerror}",
            reason="INVALID_CONFIGURATION",
            hint="choose another with --state-dir, or mend its permissions",
        ) from error
    try:
        _lock(fd, path)
        yield path
    finally:
        os.close(fd)


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
        raise FailedPrecondition(
            f"another daemon (process {holder}) uses the state directory {path}",
            reason="STATE_DIRECTORY_IN_USE",
            hint="stop it first, or give this one a directory of its own with --state-dir",
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)


def token_secret(path: Path) -> bytes:
    """The secret that authenticates page tokens, made once and kept, so that tokens outlive restarts."""
    file = path / "token-secret"
    try:
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        secret = file.read_bytes()
        if len(secret) == _SECRET_BYTES:
            return secret
        file.unlink()  # a crash between creating and writing it
        return token_secret(path)
    with os.fdopen(fd, "wb") as out:
        secret = secrets.token_bytes(_SECRET_BYTES)
        out.write(secret)
    return secret


def host_id(path: Path) -> str:
    """The id of this state directory, made once: of the machine, for what is on one machine only.

    Raises FailedPrecondition (INVALID_CONFIGURATION) for a file that holds none.
    """
    file = path / "host-id"
    if not file.exists():
        write_durably(file, f"{uuid.uuid4()}\n".encode())
    found = file.read_bytes().decode(errors="replace").strip()
    if not UUID.match(found):
        raise FailedPrecondition(
            f"{file} holds no id",
            reason="INVALID_CONFIGURATION",
            hint="restore it from a backup, or remove it: what was attached is on another machine then",
        )
    return found


def trace_secret(path: Path) -> bytes:
    """The secret that seals traces, made once and on the disk before it is used: it cannot be made again.

    Raises FailedPrecondition (INVALID_CONFIGURATION) for a file that is none.
    """
    file = path / "trace-key"
    if not file.exists():
        write_durably(file, secrets.token_bytes(_SECRET_BYTES))
    secret = file.read_bytes()
    if len(secret) != _SECRET_BYTES:
        raise FailedPrecondition(
            f"{file} is no key: it has {len(secret)} bytes, not {_SECRET_BYTES}",
            reason="INVALID_CONFIGURATION",
            hint="restore it from a backup, or remove it: nothing proves the seals made with it then",
        )
    return secret


def write_durably(file: Path, content: bytes) -> None:
    """The file is there whole or not at all, also after a power cut."""
    part = file.with_suffix(".part")
    part.unlink(missing_ok=True)
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    part.rename(file)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
