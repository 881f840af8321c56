"""Starting a block server from the daemon: for whoever runs no systemd unit for it.

It is a process of its own session, so that neither the end of the daemon nor Ctrl-C in its terminal ends it:
disks that are in use go on.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

import structlog

from imsd.config import Config
from imsd.config_block_server import block_server_places
from imsd.contract import Unavailable, run_blocking
from imsd.core.attachments.block_server import UNAVAILABLE, BlockServer, BlockServerPlace

log = structlog.get_logger(__name__)

# Of the log of the one before, which is kept.
LARGEST_LOG_BYTES: Final = 1 << 20

# What systemd tells the process that it starts, of sd_notify(3) and sd_listen_fds(3).
SUPERVISED: Final = frozenset(
    ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
)


def block_server_of(config: Config) -> BlockServer:
    """The one that is configured, which need not run."""
    section = config.block_server
    places = block_server_places(section, config.state_dir)
    place = BlockServerPlace(places.control_socket, places.sockets, places.state)
    return BlockServer(place, BlockServerStarter(config) if section.autostart else None)


class BlockServerStarter:
    """Starts one with the configuration of the daemon."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._log = block_server_places(config.block_server, config.state_dir).state / "log"
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Return when it runs. Raises Unavailable (BLOCK_SERVER_UNAVAILABLE)."""
        try:
            self._process = await run_blocking(self._start)
        except OSError as error:
            raise Unavailable(
                f"the block server cannot be started: {error.strerror}",
                reason=UNAVAILABLE,
                hint=f"look at the permissions of {self._log.parent}",
            ) from error
        log.info("block server started", process=self._process.pid, log=str(self._log))

    def failure(self) -> str:
        """Why the one that was started has ended: the last line of its log; empty while it runs."""
        process = self._process
        if process is None or process.returncode is None:
            return ""
        return f"{_last_line(self._log) or f'exit status {process.returncode}'} (see {self._log})"

    def _start(self) -> subprocess.Popen[bytes]:
        self._log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        command = [sys.executable, "-m", "imsd.nbd", "--state-dir", str(self._config.state_dir)]
        command += ["--log-format", self._config.log_format]
        if self._config.file is not None:
            command += ["--config", str(self._config.file)]
        # To a supervisor the daemon alone says how it is.
        environment = {key: value for key, value in os.environ.items() if key not in SUPERVISED}
        with open(_log_file(self._log), "ab") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                cwd="/",
                env=environment,
            )
        # Waited for, or what is left of one that ends would stay as long as the daemon runs.
        threading.Thread(target=process.wait, name="block server", daemon=True).start()
        return process


def _log_file(path: Path) -> int:
    """A descriptor that is open for appending; the log of earlier ones is kept up to a length."""
    if path.exists() and path.stat().st_size > LARGEST_LOG_BYTES:
        path.replace(path.with_suffix(".old"))
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _last_line(path: Path) -> str:
    try:
        lines = path.read_bytes()[-4096:].decode(errors="replace").splitlines()
    except OSError:
        return ""
    told = [line for line in lines if line.strip() and not line.startswith("hint:")]
    return told[-1][:300] if told else ""
