"""Opening what is configured: every store and bucket has a state, and is closed in reverse order.

A driver whose library is missing is *skipped*, one that does not open has *failed*; the daemon goes on
without it unless it is required.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Protocol, TypeVar

import structlog

from imsd.contract import BlobStore, ImsError, KeyService, MissingLibrary, StoreUsage, Unavailable

from .patience import within
from .plugin_registry import Declared
from .store_sections import ConfiguredStore

log = structlog.get_logger(__name__)

OpenedT = TypeVar("OpenedT")


class Configured(Protocol):
    """A section of the configuration that was understood, of whatever kind of driver."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str:
        """store, bucket or key_service."""

    @property
    def declared(self) -> Declared[Any]: ...
    @property
    def options(self) -> Any: ...
    @property
    def is_required(self) -> bool: ...
    @property
    def section_name(self) -> str: ...


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
class OpenedStore:
    """What came of opening a store or a bucket; without one, ``detail`` says why."""

    configured: ConfiguredStore
    state: DriverState
    detail: str
    store: BlobStore | None


def ready_store(opened: OpenedStore | None, kind: str, name: str) -> BlobStore:
    """The open store. Raises Unavailable (DRIVER_NOT_READY)."""
    if opened is not None and opened.store is not None:
        return opened.store
    why = f"is {opened.state}: {opened.detail}" if opened else "is not configured"
    raise Unavailable(
        f"the {kind} {name!r} {why}",
        reason="DRIVER_NOT_READY",
        hint="`imsctl driver list` shows every store and bucket and its state",
    )


async def open_configured(stack: AsyncExitStack, configured: ConfiguredStore) -> OpenedStore:
    """Open one; it is closed with ``stack``. Raises what one that is required raises."""
    state, detail, store = await open_driver(stack, configured, configured.declared.driver.open)
    return OpenedStore(configured, state, detail, store)


async def open_driver(
    stack: AsyncExitStack,
    configured: Configured,
    driver: Callable[[Any], AbstractAsyncContextManager[OpenedT]],
) -> tuple[DriverState, str, OpenedT | None]:
    """What comes of opening a driver, and why nothing; it is closed with ``stack``.

    Raises what one that is required raises.
    """
    what = words_of(configured.kind)
    try:
        opened = await stack.enter_async_context(_closing_quietly(configured, driver(configured.options)))
    except MissingLibrary as missing:
        return _without(configured, DriverState.SKIPPED, str(missing), missing)
    except ImsError as error:
        return _without(configured, DriverState.FAILED, error.message, error)
    except Exception as error:  # a defect of the driver, which must not take the others along
        log.exception(f"a {what} did not open", name=configured.name)
        return _without(configured, DriverState.FAILED, f"{type(error).__name__}: {error}", error)
    log.info(f"{what} opened", name=configured.name, driver=configured.declared.driver.name)
    return DriverState.READY, "", opened


async def status_of(opened: OpenedStore, *, is_default: bool = False) -> DriverStatus:
    usage, detail = StoreUsage(None, None), opened.detail
    if opened.store is not None:
        try:
            usage = await within(USAGE_SECONDS, opened.store.usage())
        except TimeoutError:
            detail = f"did not tell its usage within {USAGE_SECONDS:g} seconds"
        except ImsError as error:
            detail = error.message
    driver = opened.configured.declared.driver
    return DriverStatus(
        name=driver.name,
        kind=opened.configured.kind,
        instance=opened.configured.name,
        state=opened.state,
        detail=detail,
        summary=driver.summary,
        capabilities=capabilities_of(opened.store),
        plugin=opened.configured.declared.plugin,
        is_default=is_default,
        used_bytes=usage.used_bytes,
        free_bytes=usage.free_bytes,
    )


def declared_status(declared: Declared[Any], kind: str = "store") -> DriverStatus:
    """Of a driver that is used by nothing."""
    return DriverStatus(
        name=declared.driver.name,
        kind=kind,
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


def _without(
    configured: Configured, state: DriverState, why: str, error: Exception
) -> tuple[DriverState, str, None]:
    """Go on without it, or stop when it is required."""
    what = words_of(configured.kind)
    message = f"the {what} {configured.name!r} did not open: {why}"
    if configured.is_required:
        field = configured.section_name
        if isinstance(error, ImsError):
            raise type(error)(message, reason=error.reason, hint=error.hint, field=field) from error
        raise Unavailable(message, reason="DRIVER_NOT_READY", field=field) from error
    log.warning(f"going on without a {what}", name=configured.name, state=state, why=why)
    return state, why, None


@asynccontextmanager
async def _closing_quietly(
    configured: Configured, opening: AbstractAsyncContextManager[OpenedT]
) -> AsyncIterator[OpenedT]:
    """What is opened; a driver that fails to close is logged and keeps no other from closing."""
    opened = await opening.__aenter__()
    try:
        yield opened
    finally:
        try:
            await opening.__aexit__(None, None, None)
        except Exception:
            log.exception(f"a {words_of(configured.kind)} did not close", name=configured.name)


def words_of(kind: str) -> str:
    """A kind of driver in a sentence: "key service" for "key_service"."""
    return kind.replace("_", " ")


def capabilities_of(opened: BlobStore | KeyService | None) -> list[str]:
    """The names of those that it has."""
    if opened is None:
        return []
    said = opened.capabilities
    return [each.name for each in fields(said) if getattr(said, each.name)]
