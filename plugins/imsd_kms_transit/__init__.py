"""Plugin: a key service in a transit engine of OpenBao or Vault."""

from __future__ import annotations

from collections.abc import Sequence

from imsd.contract import KeyDriver, hookimpl

from .options import TransitOptions, files_of
from .service import open_transit_keys


@hookimpl
def imsd_key_services() -> Sequence[KeyDriver[TransitOptions]]:
    return [
        KeyDriver(
            name="transit",
            summary="a transit engine of OpenBao or Vault",
            options=TransitOptions,
            open=open_transit_keys,
            files=files_of,
        )
    ]
