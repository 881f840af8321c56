"""Plugin: a key service in a file of this machine, sealed with a passphrase."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from imsd.contract import KeyDriver, KeyService, hookimpl

from .options import LocalKeysOptions, files_of


@asynccontextmanager
async def open_lazily(options: LocalKeysOptions) -> AsyncIterator[KeyService]:
    # Cryptography takes megabytes: those who have no keys do without.
    from .service import open_local_keys

    async with open_local_keys(options) as service:
        yield service


@hookimpl
def imsd_key_services() -> Sequence[KeyDriver[LocalKeysOptions]]:
    return [
        KeyDriver(
            name="local",
            summary="a keyring file of this machine, sealed with a passphrase",
            options=LocalKeysOptions,
            open=open_lazily,
            files=files_of,
        )
    ]
