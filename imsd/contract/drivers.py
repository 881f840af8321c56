"""How a plugin declares a driver. A declaration is data: making one does no I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from .blob_store import BlobStore
from .key_service import KeyService

OptionsT = TypeVar("OptionsT")

CONTRACT_VERSION = 1


class MissingLibrary(Exception):
    """Raised by ``open`` when an optional library is not installed: the driver is *skipped*.

    ``str()`` is one sentence that names the library and how to install it.
    """


def _nothing(options: object) -> Sequence[Path]:
    return ()


def _nowhere(options: object) -> Sequence[str]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreDriver(Generic[OptionsT]):
    """A kind of blob store that this daemon can open.

    ``options`` is a frozen dataclass; its fields are the keys of the instance's configuration
    section, unknown keys are an error; a value that cannot be is refused by its ``__post_init__`` with
    InvalidRequest (INVALID_CONFIGURATION). ``open`` acquires and releases in one function.

    ``directories``: those of this machine in which the store keeps its blobs, so that nothing else is put
    there by mistake. ``places``: the same beyond this machine, as texts with a slash at the end; one that
    begins with another lies in it. ``files``: those of this machine that hold secrets, so that none is
    imported. ``bucket_options``: the options of a store that is a bucket, if some have other defaults there:
    a subclass of ``options``.
    """

    name: str
    summary: str
    options: type[OptionsT]
    open: Callable[[OptionsT], AbstractAsyncContextManager[BlobStore]]
    directories: Callable[[OptionsT], Sequence[Path]] = _nothing
    places: Callable[[OptionsT], Sequence[str]] = _nowhere
    files: Callable[[OptionsT], Sequence[Path]] = _nothing
    bucket_options: type[OptionsT] | None = None
    contract_version: int = CONTRACT_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyDriver(Generic[OptionsT]):
    """A kind of key service that this daemon can open.

    ``options`` and ``open`` are as those of a `StoreDriver`. A secret is no option: an option names the file
    that holds it. ``files``: those of this machine that hold keys and secrets, so that none is imported.
    """

    name: str
    summary: str
    options: type[OptionsT]
    open: Callable[[OptionsT], AbstractAsyncContextManager[KeyService]]
    files: Callable[[OptionsT], Sequence[Path]] = _nothing
    contract_version: int = CONTRACT_VERSION
