"""Daemons with a key service: a keyring file in the test's folder, and a bucket beside it."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.end_to_end.daemon_process import DaemonProcess

StartDaemon = Callable[..., DaemonProcess]


def with_keys(start_daemon: StartDaemon, folder: Path, **settings: Any) -> DaemonProcess:
    """A started daemon whose keys are in the keyring `keyring_of` ``folder``; it has a bucket "main"."""
    passphrase = folder / "passphrase"
    passphrase.touch(0o600)
    passphrase.write_text(secrets.token_urlsafe(32))
    (folder / "keys").mkdir()
    (folder / "bucket").mkdir()
    config = folder / "imsd.toml"
    config.write_text(
        f'[key_services.main]\ndriver = "local"\npath = "{keyring_of(folder)}"\n'
        f'passphrase_file = "{passphrase}"\n'
        f'[buckets.main]\ndriver = "localfs"\npath = "{folder / "bucket"}"\nprojects = ["*"]\n'
    )
    return start_daemon(config=str(config), **settings)


def keyring_of(folder: Path) -> Path:
    return folder / "keys" / "ring"
