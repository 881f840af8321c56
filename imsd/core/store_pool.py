"""The configured stores: each is opened at the start, has a state, and is closed in reverse order.

Wrong configuration stops the start. A driver whose library is missing is *skipped*, one that does not
open has *failed*; the daemon goes on without it unless the store is required (by default, only the
default store is).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

import structlog

from imsd.contract import BlobStore, ImsError, MissingLibrary, StoreUsage, Unavailable

from .plugin_registry import DeclaredDriver, PluginRegistry
from .store_sections import ConfiguredStore, configured_stores

log = structlog.get_logger(__name__)

# A store that is asked for its usage and does not answer is shown without.
USAGE_SECONDS = 5.0


class DriverState(StrEnum):
    DECLARED = "declared"
    READY = "ready"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverStatus:
    """One line of `imsctl driver list`; bytes are None when unknown, ``instance`` empty when declared."""

    name: str
    kind: str
    instance: str
    state: DriverState
    detail: str
    summary: str
    capabilities: Sequence[str]
    plugin: str
    is_default: bool
    used_bytes: int | None
    free_bytes: int | None


@dataclass(frozen=True, slots=True)
class _Opened:
    """What came of opening a store; without one, ``detail`` says why."""

    configured: ConfiguredStore
    state: DriverState
    detail: str
    store: BlobStore | None


class StorePool:
    """The stores by their configured names."""

    def __init__(self, registry: PluginRegistry, opened: Sequence[_Opened], default_name: str) -> None:
        self.default_name = default_name
        self._registry = registry
        self._opened = {each.configured.name: each for each in opened}

    def get(self, name: str) -> BlobStore:
        """The opened store. Raises Unavailable (DRIVER_NOT_READY)."""
        opened = self._opened.get(name)
        if opened is not None and opened.store is not None:
            return opened.store
        why = f"is {opened.state}: {opened.detail}" if opened else "is not configured"
        raise Unavailable(
            f"the store {name!r} {why}",
            reason="DRIVER_NOT_READY",
            hint="`imsctl driver list` shows every store and its state",
        )

    def ready_names(self) -> list[str]:
        """The names of the stores that are open, in the order of the configuration."""
        return [name for name, opened in self._opened.items() if opened.store is not None]

    async def statuses(self) -> list[DriverStatus]:
        """Every configured store, then every driver that no store uses."""
        configured = await asyncio.gather(*(self._status(each) for each in self._opened.values()))
        in_use = {status.name for status in configured}
        return [
            *configured,
            *(_declared(each) for name, each in self._registry.stores.items() if name not in in_use),
        ]

    async def _status(self, opened: _Opened) -> DriverStatus:
        usage, detail = StoreUsage(None, None), opened.detail
        if opened.store is not None:
            try:
                async with asyncio.timeout(USAGE_SECONDS):
                    usage = await opened.store.usage()
            except TimeoutError:
                detail = f"did not tell its usage within {USAGE_SECONDS:g} seconds"
            except ImsError as error:
                detail = error.message
        driver = opened.configured.declared.driver
        return DriverStatus(
            name=driver.name,
            kind="store",
            instance=opened.configured.name,
            state=opened.state,
            detail=detail,
            summary=driver.summary,
            capabilities=_capabilities(opened.store),
            plugin=opened.configured.declared.plugin,
            is_default=opened.configured.name == self.default_name,
            used_bytes=usage.used_bytes,
            free_bytes=usage.free_bytes,
        )


@asynccontextmanager
async def open_store_pool(
    registry: PluginRegistry, sections: Mapping[str, Mapping[str, Any]], default_name: str
) -> AsyncIterator[StorePool]:
    """Open every store of ``sections`` (the tables ``[stores.NAME]``).

    Raises InvalidRequest (INVALID_CONFIGURATION), and what a required store raises when it is opened.
    """
    # All are understood before the first is opened: a typing error leaves nothing half-started.
    configured = configured_stores(registry, sections, default_name)
    async with AsyncExitStack() as stack:
        opened = [await _open(stack, each) for each in configured]
        yield StorePool(registry, opened, default_name)


async def _open(stack: AsyncExitStack, configured: ConfiguredStore) -> _Opened:
    name = configured.name
    try:
        opening = configured.declared.driver.open(configured.options)
        store = await stack.enter_async_context(_closing_quietly(name, opening))
    except MissingLibrary as missing:
        return _without(configured, DriverState.SKIPPED, str(missing), missing)
    except ImsError as error:
        return _without(configured, DriverState.FAILED, error.message, error)
    except Exception as error:  # a defect of the driver, which must not take the other stores along
        log.exception("a store did not open", store=name)
        return _without(configured, DriverState.FAILED, f"{type(error).__name__}: {error}", error)
    log.info("store opened", store=name, driver=configured.declared.driver.name)
    return _Opened(configured, DriverState.READY, "", store)


def _without(configured: ConfiguredStore, state: DriverState, why: str, error: Exception) -> _Opened:
    """Go on without a store, or stop when it is required."""
    message = f"the store {configured.name!r} did not open: {why}"
    if configured.is_required:
        if isinstance(error, ImsError):
            raise type(error)(
                message, reason=error.reason, hint=error.hint, field=f"stores.{configured.name}"
            ) from error
        raise Unavailable(message, reason="DRIVER_NOT_READY", field=f"stores.{configured.name}") from error
    log.warning("going on without a store", store=configured.name, state=state, why=why)
    return _Opened(configured, state, why, None)


@asynccontextmanager
async def _closing_quietly(
    name: str, opening: AbstractAsyncContextManager[BlobStore]
) -> AsyncIterator[BlobStore]:
    """The open store; a driver that fails to close is logged and keeps no other from closing."""
    store = await opening.__aenter__()
    try:
        yield store
    finally:
        try:
            await opening.__aexit__(None, None, None)
        except Exception:
            log.exception("a store did not close", store=name)


def _declared(declared: DeclaredDriver) -> DriverStatus:
    return DriverStatus(
        name=declared.driver.name,
        kind="store",
        instance="",
        state=DriverState.DECLARED,
        detail="",
        summary=declared.driver.summary,
        capabilities=(),
        plugin=declared.plugin,
        is_default=False,
        used_bytes=None,
        free_bytes=None,
    )


def _capabilities(store: BlobStore | None) -> list[str]:
    if store is None:
        return []
    return [field.name for field in fields(store.capabilities) if getattr(store.capabilities, field.name)]
