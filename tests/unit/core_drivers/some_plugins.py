"""Plugins made on the spot: modules with hooks, as an author would write them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from imsd.contract import BlobStore, MissingLibrary, StoreDriver, Unavailable, hookimpl
from imsd.testing.memory_store import MemoryStore


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryOptions:
    """Options of a store that opens, or does not."""

    room: int | None = None
    label: str = ""


Opening = Callable[[MemoryOptions], AbstractAsyncContextManager[BlobStore]]

events: list[str] = []


@asynccontextmanager
async def open_memory(options: MemoryOptions) -> AsyncIterator[BlobStore]:
    events.append(f"open {options.label}")
    yield MemoryStore(capacity_bytes=options.room)
    events.append(f"close {options.label}")


@asynccontextmanager
async def open_without_library(options: MemoryOptions) -> AsyncIterator[BlobStore]:
    raise MissingLibrary("the library tapes is not installed: pip install imsd[tapes]")
    yield MemoryStore()


@asynccontextmanager
async def open_out_of_reach(options: MemoryOptions) -> AsyncIterator[BlobStore]:
    raise Unavailable("nobody answers", reason="STORE_UNAVAILABLE", hint="look at the cable")
    yield MemoryStore()


@asynccontextmanager
async def open_with_a_defect(options: MemoryOptions) -> AsyncIterator[BlobStore]:
    raise KeyError("endpoint")
    yield MemoryStore()


@asynccontextmanager
async def close_with_a_defect(options: MemoryOptions) -> AsyncIterator[BlobStore]:
    events.append(f"open {options.label}")
    try:
        yield MemoryStore()
    finally:
        events.append(f"fail to close {options.label}")
        raise RuntimeError("still busy")


def driver(name: str, opening: Opening = open_memory, **fields: Any) -> StoreDriver[MemoryOptions]:
    declared: dict[str, Any] = {"summary": f"the driver {name}", "options": MemoryOptions} | fields
    return StoreDriver(name=name, open=opening, **declared)


def plugin(name: str, *drivers: object) -> ModuleType:
    """A module that declares ``drivers``."""
    module = ModuleType(name)

    @hookimpl
    def imsd_blob_stores() -> Sequence[object]:
        return drivers

    vars(module)["imsd_blob_stores"] = imsd_blob_stores
    return module
