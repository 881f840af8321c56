"""Plugin: a key service in a transit engine of OpenBao or Vault."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from imsd.contract import KeyDriver, KeyService, hookimpl

from .options import TransitOptions, files_of


@asynccontextmanager
async def open_lazily(options: TransitOptions) -> AsyncIterator[KeyService]:
    # An HTTP client takes ten megabytes: those who have no such key service do without.
    from .service import open_transit_keys

    async with open_transit_keys(options) as service:
        yield service


@hookimpl
def imsd_key_services() -> Sequence[KeyDriver[TransitOptions]]:
    return [
        KeyDriver(
            name="transit",
            summary="a transit engine of OpenBao or Vault",
            options=TransitOptions,
            open=open_lazily,
            files=files_of,
        )
    ]
