"""The hooks of imsd. All are plain functions: pluggy calls them and does not await.

A hook declares; it does no I/O. A plugin is found by its entry point in the group ``imsd``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pluggy

from .drivers import KeyDriver, StoreDriver

PLUGIN_GROUP = "imsd"

hookspec = pluggy.HookspecMarker(PLUGIN_GROUP)
hookimpl = pluggy.HookimplMarker(PLUGIN_GROUP)


@hookspec
def imsd_blob_stores() -> Sequence[StoreDriver[Any]]:
    """Declare blob-store drivers.

    Called once, at start-up, before any store is opened. Return data only: no I/O and no import of
    an optional library here, both belong in ``StoreDriver.open``. An exception is a defect of the
    plugin: the daemon names it and does not start.
    """
    return ()


@hookspec
def imsd_key_services() -> Sequence[KeyDriver[Any]]:
    """Declare drivers of key services. As `imsd_blob_stores`: data only, before any key service is opened."""
    return ()
