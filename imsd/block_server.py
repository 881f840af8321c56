"""The composition root of the block server: configuration, plugins, stores, attachments, sockets.

It opens no database and speaks no gRPC; see `imsd/nbd/README.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import grp
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version as version_of
from pathlib import Path

import structlog

from imsd.allocator import keep_loaded_objects
from imsd.chunks.decode_pool import DecodePool
from imsd.config import Config
from imsd.config_block_server import BlockServerPlaces, block_server_places
from imsd.config_loading import load_config
from imsd.contract import (
    BlobStore,
    FailedPrecondition,
    ImsError,
    InvalidRequest,
    NotFound,
    Unavailable,
    run_blocking,
)
from imsd.core.opened_stores import open_configured, ready_store
from imsd.core.plugin_registry import load_plugins
from imsd.core.store_sections import ConfiguredStore, configured_stores
from imsd.core_dumps import leave_no_dumps
from imsd.logging_setup import set_up_logging
from imsd.nbd.access_trace import TraceFiles
from imsd.nbd.attachment import SocketRules
from imsd.nbd.attachments import Attachments, Rules
from imsd.nbd.cached_store import FetchedOnce
from imsd.nbd.control import Control
from imsd.nbd.decoded_chunks import DecodedChunks
from imsd.nbd.description import DescriptionFiles
from imsd.nbd.disk import Memory
from imsd.nbd.disks import Disks, StoreAccess
from imsd.nbd.stored_bytes import StoredBytes
from imsd.service_notify import notify

log = structlog.get_logger(__name__)

# A store that did not open is tried again, at most so often.
REOPEN_SECONDS = 1.0

# In the state directory of the block server; held while one runs.
LOCK = "lock"

# How often is looked whether the state directory is there.
LOOK_SECONDS = 10.0

# How long a thread that decodes may keep the event loop from going on; at Python's 5 ms a disk is read a
# sixth slower.
SWITCH_SECONDS = 0.0005

# Clients of disks pass through the last two, of which the last one's group is that of the sockets.
FOLDER_MODE, RUN_FOLDER_MODE, SOCKETS_FOLDER_MODE = 0o700, 0o755, 0o750


class LazyStores:
    """The configured stores, each opened when a disk of it is; closed with ``stack``."""

    def __init__(self, stack: AsyncExitStack, configured: list[ConfiguredStore]) -> None:
        self._stack = stack
        self._configured = {each.name: each for each in configured}
        self._open: dict[str, BlobStore] = {}
        self._failed: dict[str, tuple[float, Unavailable]] = {}
        self._opening = asyncio.Lock()

    async def get(self, name: str) -> BlobStore:
        """Raises NotFound, Unavailable (DRIVER_NOT_READY)."""
        if name in self._open:
            return self._open[name]
        if name not in self._configured:
            raise NotFound(f"no store {name[:80]!r} is configured here", field="store")
        async with self._opening:
            if name in self._open:
                return self._open[name]
            tried_at, failure = self._failed.get(name, (-REOPEN_SECONDS, None))
            if failure is not None and time.monotonic() - tried_at < REOPEN_SECONDS:
                raise failure
            try:
                opened = ready_store(
                    await open_configured(self._stack, self._configured[name]), "store", name
                )
            except ImsError as error:
                failure = Unavailable(error.message, reason="DRIVER_NOT_READY", hint=error.hint)
                self._failed[name] = (time.monotonic(), failure)
                raise failure from error
            self._open[name] = opened
            return opened

    def is_on_this_machine(self, name: str) -> bool:
        configured = self._configured.get(name)
        return configured is not None and bool(configured.directories())


@dataclass(frozen=True, slots=True)
class RunningBlockServer:
    places: BlockServerPlaces
    attachments: Attachments


@asynccontextmanager
async def open_block_server(config: Config) -> AsyncIterator[RunningBlockServer]:
    """A running block server, stopped when the block is left. Raises `ImsError` when it cannot start."""
    section = config.block_server
    registry = load_plugins(config.disabled_plugins)
    configured = configured_stores(registry, config.stores, config.default_store)
    async with AsyncExitStack() as stack:
        places, group = _taken_places(stack, config), _group(config.socket_group)
        # A stack of their own, which is unwound last: they are opened while all else runs.
        stores = LazyStores(await stack.enter_async_context(AsyncExitStack()), configured)
        pool = DecodePool(config.decode_threads or None, section.memory_bytes // 2, is_nice=False)
        stack.callback(pool.close)
        cache = StoredBytes(places.cache, section.cache_bytes)
        await asyncio.to_thread(cache.open)
        fetched = FetchedOnce(cache)
        stack.push_async_callback(fetched.close)
        memory = Memory(pool, DecodedChunks(section.memory_bytes // 2), section.store_wait_seconds)

        def is_kept(name: str) -> bool:
            is_wanted = section.cache_local_stores or not stores.is_on_this_machine(name)
            return section.cache_bytes > 0 and is_wanted

        disks = Disks(StoreAccess(stores.get, is_kept), memory, fetched)
        sockets = SocketRules(places.sockets, config.socket_mode, group, section.max_clients)
        rules = Rules(
            sockets=sockets,
            max_attachments=section.max_attachments,
            prefetch_limit=section.cache_bytes // 2,
        )
        files = DescriptionFiles(places.state / "attachments")
        attachments = Attachments(disks, files, TraceFiles(places.state / "traces"), rules)
        stack.push_async_callback(attachments.close)
        control = Control(attachments, version_of("imsd"), str(places.state))
        stack.push_async_callback(control.close)
        try:
            restored = await attachments.start()
            control.listen(places.control_socket)
        except OSError as error:
            raise _unusable(str(error.filename or places.control_socket), error) from error
        log.info("ready", control=str(places.control_socket), restored_attachments=restored)
        yield RunningBlockServer(places, attachments)


async def _serve(config: Config) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with open_block_server(config) as running:
        keep_loaded_objects()
        control = running.places.control_socket
        notify("READY=1", f"STATUS=controlled by {control}", f"MAINPID={os.getpid()}")
        waiting = [asyncio.ensure_future(each) for each in (stopping.wait(), until_forgotten(running))]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        notify("STOPPING=1")
        log.info("stopping")
    log.info("stopped")


async def until_forgotten(running: RunningBlockServer) -> None:
    """Return when the state directory was removed and nobody is connected: no daemon would ever end it."""
    lock = running.places.state / LOCK
    before = await run_blocking(os.stat, lock)
    while True:
        if not running.attachments.clients and not await run_blocking(_is_there, lock, before):
            break
        await asyncio.sleep(LOOK_SECONDS)
    log.warning("the state directory is gone, and nobody is connected", state_dir=str(lock.parent))


def _is_there(file: Path, before: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(file), before)
    except FileNotFoundError:
        return False
    except OSError:  # it may come back
        return True


def run_command_line() -> None:
    """Run by the arguments of this process, and exit: 0 ok, 1 failed, 2 wrong usage."""
    parser = argparse.ArgumentParser(
        prog="imsd-nbd", description="Serve attached images as read-only disks over NBD."
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML; by default that of the daemon")
    parser.add_argument("--state-dir", type=Path, metavar="DIR", help="the daemon's state directory")
    parser.add_argument("--log-format", choices=("console", "json"), help="how log lines look")
    options = parser.parse_args()
    flags = {"state_dir": options.state_dir, "log_format": options.log_format}
    try:
        config = load_config(options.config, flags).config
        set_up_logging(config.log_format, config.log_level)
        leave_no_dumps()
        _take_descriptors()
        sys.setswitchinterval(SWITCH_SECONDS)
        asyncio.run(_serve(config))
    except ImsError as error:
        print(f"imsd-nbd: {error.message} [{error.reason}]", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        sys.exit(2 if error.field.startswith("--") else 1)


def _take_descriptors() -> None:
    """As many as the system allows: each client takes one."""
    _, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, highest))


def _taken_places(stack: AsyncExitStack, config: Config) -> BlockServerPlaces:
    """Made, and kept from others until ``stack`` is left. Raises InvalidRequest, FailedPrecondition."""
    places = block_server_places(config.block_server, config.state_dir)
    run_folder = places.control_socket.parent
    _make_folder(places.state, RUN_FOLDER_MODE if run_folder == places.state else FOLDER_MODE)
    stack.callback(os.close, _locked(places.state))
    # Both only with the lock: who ends removes nothing that one which starts has just made.
    if config.block_server.run_dir is None:
        stack.callback(_remove_empty, places)
    _make_folder(run_folder, RUN_FOLDER_MODE)
    _make_folder(places.sockets, SOCKETS_FOLDER_MODE, _group(config.socket_group))
    return places


def _make_folder(folder: Path, mode: int, group: int = -1) -> None:
    """``group``: of one that is made here; -1: any. Raises InvalidRequest (INVALID_CONFIGURATION)."""
    try:
        is_there = folder.is_dir()
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
        if group >= 0 and not is_there:
            os.chown(folder, -1, group)
    except OSError as error:
        raise _unusable(str(folder), error) from error


def _remove_empty(places: BlockServerPlaces) -> None:
    """Directories of sockets that were made here and have none; those of an operator stay."""
    with suppress(OSError):
        places.sockets.rmdir()
        places.control_socket.parent.rmdir()


def _locked(folder: Path) -> int:
    """A descriptor that keeps others out. Raises FailedPrecondition (STATE_DIRECTORY_IN_USE)."""
    fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise FailedPrecondition(
            f"another block server uses {folder}",
            reason="STATE_DIRECTORY_IN_USE",
            hint="stop it first, or give this one a state directory of its own",
        ) from None
    return fd


def _group(name: str) -> int:
    return grp.getgrnam(name).gr_gid if name else -1


def _unusable(place: str, error: OSError) -> InvalidRequest:
    return InvalidRequest(
        f"{place} cannot be used: {error.strerror}",
        reason="INVALID_CONFIGURATION",
        hint="choose another run_dir or cache_dir of block_server, or mend its permissions",
    )
