"""Plugin: a key service in a file of this machine, sealed with a passphrase."""

from __future__ import annotations

from collections.abc import Sequence

from imsd.contract import KeyDriver, hookimpl

from .options import LocalKeysOptions, files_of
from .service import open_local_keys


@hookimpl
def imsd_key_services() -> Sequence[KeyDriver[LocalKeysOptions]]:
    return [
        KeyDriver(
            name="local",
            summary="a keyring file of this machine, sealed with a passphrase",
            options=LocalKeysOptions,
            open=open_local_keys,
            files=files_of,
        )
    ]
