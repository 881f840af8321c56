"""The access key of a store and its secret: from a file, a credential of systemd, or the environment.

A secret is in no `repr`, no message and no log. It is read again when the service refuses it, so that a key
is replaced by writing the file anew.
"""

from __future__ import annotations

import configparser
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from imsd.contract import InvalidRequest

from .options import S3StoreOptions

# A file of keys is a few lines.
_MAX_FILE_BYTES: Final = 1 << 20

_NAMES: Final = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")


@dataclass(frozen=True, slots=True)
class AccessKey:
    """What requests are signed with; ``token`` is empty but for keys that expire."""

    id: str
    secret: str = field(repr=False)
    token: str = field(repr=False, default="")


def read_key(options: S3StoreOptions, environment: Mapping[str, str] = os.environ) -> AccessKey:
    """The key that the options point to. Blocks. Raises InvalidRequest (INVALID_CONFIGURATION)."""
    if options.keys_file is not None:
        return _of_file(options.keys_file, options.keys_profile, "keys_file")
    if options.systemd_keys is not None:
        folder = environment.get("CREDENTIALS_DIRECTORY")
        if not folder:
            raise _invalid(
                "there are no credentials of systemd",
                "systemd_keys",
                f"add LoadCredential={options.systemd_keys}:/path/of/the/file to the unit",
            )
        return _of_file(Path(folder, options.systemd_keys), options.keys_profile, "systemd_keys")
    found = [environment.get(name.upper(), "") for name in _NAMES]
    if not (found[0] and found[1]):
        raise _invalid(
            "there is no access key",
            "keys_file",
            "set keys_file, systemd_keys, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment",
        )
    return _checked(found, "keys_file", "the environment")


def files_of_keys(options: S3StoreOptions) -> list[Path]:
    """The files on this machine that hold the secret."""
    if options.keys_file is not None:
        return [options.keys_file]
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return [Path(folder, options.systemd_keys)] if options.systemd_keys and folder else []


def _of_file(path: Path, profile: str, option: str) -> AccessKey:
    parser = configparser.RawConfigParser()
    try:
        # Nobody waits for who writes to a pipe.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise _invalid(f"the file of keys {path} is no plain file", option, _SHAPE)
            if mode & stat.S_IRWXO:
                raise _invalid(f"everybody may read or write {path}", option, f"chmod o= {path}")
            parser.read_string(file.read(_MAX_FILE_BYTES).decode())
    except OSError as error:
        hint = "it must be there, and the daemon's user must be allowed to read it"
        raise _invalid(f"the file of keys {path} cannot be read: {error.strerror}", option, hint) from None
    except (configparser.Error, UnicodeDecodeError):  # whose words would show the secret
        raise _invalid(f"{path} is no file of keys", option, _SHAPE) from None
    if not parser.has_section(profile):
        raise _invalid(f"{path} has no section [{profile}]", "keys_profile", _SHAPE)
    found = [parser.get(profile, name, fallback="").strip() for name in _NAMES]
    if not (found[0] and found[1]):
        raise _invalid(f"the section [{profile}] of {path} has no key", option, _SHAPE)
    return _checked(found, option, str(path))


_SHAPE: Final = "its lines are [default], aws_access_key_id = ..., aws_secret_access_key = ..."


def _checked(found: list[str], option: str, place: str) -> AccessKey:
    # They go into headers, as they are.
    if not all(text.isascii() and text.isprintable() and " " not in text for text in found):
        raise _invalid(f"the access key of {place} has characters that no key has", option, _SHAPE)
    return AccessKey(*found)


def _invalid(message: str, field: str, hint: str) -> InvalidRequest:
    return InvalidRequest(message, reason="INVALID_CONFIGURATION", field=field, hint=hint)
