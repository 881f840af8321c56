"""The file of a keyring: one process has it, and it is replaced whole or not at all.

A new keyring is written beside the old one, synced, and takes its name; then the bytes of the old one are
overwritten, so that a key that was erased is not left in a free block where that can be helped. What is no
keyring, or not ours, is never overwritten: the file is replaced only while it is the one that was read.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from imsd.contract import ImsError, InvalidRequest, LimitExceeded, PermissionDenied, Unavailable

from .keyring import Keyring, KeyringMalformed, keyring_text, parse_keyring
from .keyring_seal import NotSealed, SealKey, WrongPassphrase, derive, seal, unseal

MAX_KEYRING_BYTES = 16 << 20
MODE = 0o600

BACKUP = "restore it from a backup; it is left as it is"

Identity = tuple[int, int, int, int]


class KeyringFile:
    """The keyring at ``path``, of which this process holds the lock. All methods block."""

    def __init__(self, path: Path, key: SealKey, identity: Identity | None) -> None:
        self._path = path
        self._key = key
        self._identity = identity  # of the file as it was read or written; None: there was none

    def write(self, keys: Keyring) -> None:
        """Replace the file. Raises Unavailable (KEY_SERVICE_UNAVAILABLE), LimitExceeded."""
        sealed = seal(keyring_text(keys), self._key)
        if len(sealed) > MAX_KEYRING_BYTES:
            raise LimitExceeded(
                f"the keyring has no room for more: it would be longer than {MAX_KEYRING_BYTES} bytes",
                hint="delete keys that are needed no more, or use another key service",
            )
        with _translated(self._path), _opened_old(self._path) as old:
            self._check_unchanged(old)
            self._identity = replace_file(self._path, sealed, old is None)
            if old is not None:
                overwrite(old)

    def reseal(self, passphrase: bytes, keys: Keyring) -> None:
        """Seal with another passphrase from now on. Raises what `write` raises."""
        self._key = derive(passphrase)
        self.write(keys)

    def _check_unchanged(self, old: int | None) -> None:
        """A file that is gone is written again: its keys are in this process only."""
        if old is not None and _identity_of(os.fstat(old)) != self._identity:
            raise Unavailable(
                "somebody else replaced the keyring",
                reason="KEY_SERVICE_UNAVAILABLE",
                hint="nothing was written: look which one is right, then start the daemon again",
            )


@contextmanager
def opened_keyring(path: Path, passphrase: bytes) -> Iterator[tuple[KeyringFile, Keyring]]:
    """Lock and read the keyring at ``path``, or make one if there is none and its folder is there. Blocks.

    Raises InvalidRequest (INVALID_CONFIGURATION), Unavailable (KEY_SERVICE_UNAVAILABLE), and PermissionDenied
    (KEY_SERVICE_DENIED) for a wrong passphrase.
    """
    with _locked(path):
        _remove_leftovers(path)
        read = read_keyring(path, passphrase)
        if read is not None:
            keys, key, identity = read
            yield KeyringFile(path, key, identity), keys
        else:
            file = KeyringFile(path, derive(passphrase), None)
            file.write({})
            yield file, {}


def read_keyring(path: Path, passphrase: bytes) -> tuple[Keyring, SealKey, Identity] | None:
    """What the file holds; None if there is none. Raises what `opened_keyring` raises."""
    with _translated(path):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        try:
            found = os.fstat(descriptor)
            _check_owner_and_mode(path, found)
            sealed = _read_all(descriptor, MAX_KEYRING_BYTES + 1)
        finally:
            os.close(descriptor)
    try:
        if len(sealed) > MAX_KEYRING_BYTES:
            raise NotSealed("it is too long for a keyring")
        text, key = unseal(sealed, passphrase)
        return parse_keyring(text), key, _identity_of(found)
    except WrongPassphrase:
        raise PermissionDenied(
            f"the passphrase of the keyring {path.name} is another one",
            reason="KEY_SERVICE_DENIED",
            hint="give the passphrase that it was made with, or last changed to; nothing opens it without",
        ) from None
    except (NotSealed, KeyringMalformed) as error:
        raise _wrong(path, str(error), BACKUP) from error


def replace_file(path: Path, content: bytes, is_new: bool) -> Identity:
    """Durable when it returns; a crash leaves the old file or the new one. Raises OSError."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, MODE)
    try:
        os.fchmod(descriptor, MODE)  # whatever the umask is
        _write_all(descriptor, content)
        os.fsync(descriptor)
        if is_new:
            os.link(beside, path)  # which fails if a file came there meanwhile
            os.unlink(beside)
        else:
            os.rename(beside, path)
        identity = _identity_of(os.fstat(descriptor))
        _sync_folder(path.parent)
        return identity
    finally:
        with suppress(FileNotFoundError):
            os.unlink(beside)
        os.close(descriptor)


def overwrite(descriptor: int) -> None:
    """Zeros for the bytes of a file that has no name any more; one that has another, a backup, is left."""
    found = os.fstat(descriptor)
    if found.st_nlink == 0:
        with suppress(OSError):  # the new file counts
            _write_all(descriptor, bytes(found.st_size))
            os.fsync(descriptor)


def _read_all(descriptor: int, most_bytes: int) -> bytes:
    content = bytearray()
    while len(content) < most_bytes and (piece := os.read(descriptor, most_bytes - len(content))):
        content += piece
    return bytes(content)


def _write_all(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:  # write(2) may be short
        left = left[os.write(descriptor, left) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _opened_old(path: Path) -> Iterator[int | None]:
    """A descriptor of the file that is replaced; None if there is none."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """The lock is a file of its own, which stays: the keyring itself is replaced again and again."""
    with _translated(path):
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path.with_name(path.name + ".lock"), flags, MODE)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Unavailable(
                f"another process has the keyring {path.name}",
                reason="KEY_SERVICE_UNAVAILABLE",
                hint="stop that daemon first; daemons on several machines need another key service",
            ) from None
        yield
    finally:
        os.close(descriptor)


def _remove_leftovers(path: Path) -> None:
    """Of writes that a crash cut short."""
    with _translated(path):
        for left in path.parent.glob(f".{path.name}.*.new"):
            left.unlink(missing_ok=True)


def _check_owner_and_mode(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise _wrong(path, "it is no plain file", "give the path of a file")
    if found.st_mode & 0o077:
        raise _wrong(
            path,
            f"others may read or change it (mode {stat.S_IMODE(found.st_mode):04o})",
            f"chmod 600 {path}; if somebody may have read it, change its passphrase too",
        )
    if found.st_uid not in (0, os.geteuid()):
        raise _wrong(path, "it belongs to another user", "chown it to the user of the daemon")


def _identity_of(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except ImsError:
        raise
    except OSError as error:
        raise Unavailable(
            f"the keyring {path.name} cannot be read or written: {error.strerror}",
            reason="KEY_SERVICE_UNAVAILABLE",
            hint="check that its folder is there (a disk that is not mounted?), and owner and mode of both",
        ) from error


def _wrong(path: Path, what: str, hint: str) -> InvalidRequest:
    return InvalidRequest(
        f"the keyring {path}: {what}", reason="INVALID_CONFIGURATION", field="path", hint=hint
    )
