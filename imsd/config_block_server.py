"""The section `block_server` of the configuration, and where the block server keeps what is its own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from blake3 import blake3
from pydantic import BaseModel, ByteSize, ConfigDict, Field

from .config_values import OptionalPath

_MIB = 1 << 20


class BlockServer(BaseModel):
    """What `imsd-nbd` may use, and where. Read by the daemon too, which finds the control socket by it."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    # Whether the daemon starts it when it is needed and does not run. No where systemd does.
    autostart: bool = True

    # The directory of its sockets; none: imsd-nbd and a mark of the state directory, in /run for root, else
    # in the user's runtime directory; without one, in the state directory.
    run_dir: OptionalPath = None

    # Where it keeps stored bytes it fetched, as they are stored; none: nbd/cache in the state directory.
    cache_dir: OptionalPath = None

    # Room for them; 0: nothing is kept on the disk.
    cache_bytes: Annotated[ByteSize, Field(ge=0, le=1 << 50)] = ByteSize(10 << 30)

    # Whether bytes of stores that lie on this machine are kept there a second time.
    cache_local_stores: bool = False

    # Bytes of disks in memory, of all attachments together: read, decoded, read ahead.
    memory_bytes: Annotated[ByteSize, Field(ge=16 * _MIB, le=1 << 40)] = ByteSize(64 * _MIB)

    # Connections of NBD clients at once, of all attachments together.
    max_clients: Annotated[int, Field(ge=1, le=10_000)] = 256

    # Disks that are attached at once.
    max_attachments: Annotated[int, Field(ge=1, le=10_000)] = 1000

    # How long a read waits for a store that does not answer before the client gets an error.
    store_wait_seconds: Annotated[float, Field(ge=0, le=3600)] = 30.0


@dataclass(frozen=True, slots=True)
class BlockServerPlaces:
    """Where the block server's own files are. ``sockets``: the directory of those that speak NBD."""

    control_socket: Path
    sockets: Path
    state: Path
    cache: Path


def block_server_places(section: BlockServer, state_dir: Path) -> BlockServerPlaces:
    """``state_dir``: the daemon's."""
    run_dir = section.run_dir or _default_run_dir(state_dir)
    own = state_dir / "nbd"
    return BlockServerPlaces(
        run_dir / "control.sock", run_dir / "nbd", own, section.cache_dir or own / "cache"
    )


def _default_run_dir(state_dir: Path) -> Path:
    """One for each state directory: a daemon that is only tried leaves that of the host alone."""
    runtime = "/run" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR")
    if not runtime:
        return state_dir / "nbd"
    mark = blake3(os.fsencode(os.path.realpath(state_dir))).hexdigest(4)
    return Path(runtime) / f"imsd-nbd-{mark}"
