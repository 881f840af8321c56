"""Reading a secret of a driver: a passphrase or a token, from a file or a credential of systemd.

A driver has two options for a secret, of which one is set: ``NAME_file``, and ``NAME_credential``, the name
of a credential of the daemon's unit (``LoadCredential=``), which is a file in ``$CREDENTIALS_DIRECTORY``.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .errors import InvalidRequest

MAX_SECRET_BYTES = 64 << 10

# The group may read a secret, as of a file of root in /etc; nobody else may.
FORBIDDEN_MODE = 0o027


def check_one_secret(name: str, file: Path | None, credential: str) -> None:
    """Raises InvalidRequest (INVALID_CONFIGURATION) unless exactly one of the two options is set."""
    if (file is None) == (not credential):
        raise _wrong(
            name,
            f"one of {name}_file and {name}_credential must be set" + (", not both" if credential else ""),
            "name a file that only the user of the daemon may read, or a credential of its unit",
        )
    if credential and ("/" in credential or credential.startswith(".") or "\0" in credential):
        raise _wrong(name, f"{name}_credential is no name of a credential")


def secret_path(name: str, file: Path | None, credential: str) -> Path:
    """The file that holds the secret. Raises InvalidRequest (INVALID_CONFIGURATION)."""
    if file is not None:
        return file
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if not folder:
        raise _wrong(
            name,
            f"{name}_credential is set, but the daemon was given no credentials",
            f"put LoadCredential={credential}:/a/file into its unit, or set {name}_file",
        )
    return Path(folder) / credential


def read_secret(name: str, file: Path | None, credential: str) -> bytes:
    """The secret, without the line end after it. Blocks. Raises InvalidRequest (INVALID_CONFIGURATION).

    Refused: what is no plain file, what others may read or change, what is empty or longer than 64 KiB.
    """
    path = secret_path(name, file, credential)
    try:
        # Without waiting for who writes to a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _wrong(name, f"the file of the {name} cannot be read: {error.strerror}", _hint(path)) from error
    try:
        _check_file(name, path, os.fstat(descriptor))
        secret = os.read(descriptor, MAX_SECRET_BYTES + 3)  # of a plain file, whole
    except OSError as error:
        raise _wrong(name, f"the file of the {name} cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    secret = secret.removesuffix(b"\n").removesuffix(b"\r")
    if not secret:
        raise _wrong(name, f"the file of the {name} is empty", _hint(path))
    if len(secret) > MAX_SECRET_BYTES:
        raise _wrong(name, f"the file of the {name} is longer than {MAX_SECRET_BYTES} bytes", _hint(path))
    return secret


def _check_file(name: str, path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise _wrong(name, f"the file of the {name} is no plain file", _hint(path))
    if found.st_mode & FORBIDDEN_MODE:
        mode = stat.S_IMODE(found.st_mode)
        raise _wrong(
            name,
            f"the file of the {name} may be read or changed by others (mode {mode:04o})",
            f"chmod 600 {path}, and change the {name} if somebody may have read it",
        )
    if found.st_uid not in (0, os.geteuid()):
        raise _wrong(name, f"the file of the {name} belongs to another user", f"chown it: {path}")


def _hint(path: Path) -> str:
    return f"look at {path}"


def _wrong(name: str, message: str, hint: str = "") -> InvalidRequest:
    return InvalidRequest(message, reason="INVALID_CONFIGURATION", field=f"{name}_file", hint=hint)
