"""The daemon's side of the spawner: its process, and new inspecting processes from it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from .spawner import STARTED

START_SECONDS = 20.0
# Of a Python that finds its own library by it.
_NEEDED_VARIABLES = ("LD_LIBRARY_PATH",)
# The spawner sees no other variable and no site directory; it finds modules where we find them.
_BOOTSTRAP = (
    "import sys; count = int(sys.argv[3]); sys.path[:0] = sys.argv[4:4 + count];"
    "from imsd.guest.spawner import main; main()"
)


class CannotInspect(Exception):
    """No report will come, for the reason in the text."""


class Spawner:
    """Starts processes that run ``job`` (``module:function``). All calls block; from any thread."""

    def __init__(self, job: str) -> None:
        self._job = job
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._is_closed = False

    def start(self) -> None:
        """Raises `CannotInspect`."""
        with self._lock:
            if self._process is None:
                self._launch()

    def close(self) -> None:
        """For good. Inspections that run end without a report."""
        with self._lock:
            self._is_closed = True
            self._end()

    def start_child(self) -> tuple[socket.socket, int]:
        """A channel to a new confined process, and a descriptor to kill it by; the caller closes both.

        A spawner that was killed is started again, once. Raises `CannotInspect`.
        """
        with self._lock:
            if self._process is None:
                self._launch()
            try:
                return self._ask()
            except OSError:
                self._end()
                self._launch()
            try:
                return self._ask()
            except OSError as error:
                self._end()
                raise CannotInspect(f"no inspecting process can be started: {error}") from error

    def _ask(self) -> tuple[socket.socket, int]:
        """Raises OSError when the spawner is gone, `CannotInspect` when it cannot start a process."""
        if self._control is None:
            raise BrokenPipeError("the spawner is gone")
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(self._control, [STARTED], [theirs.fileno()])
            answer, descriptors, _, _ = socket.recv_fds(self._control, 1, 1)
            if not answer:
                raise BrokenPipeError("the spawner ended")
            if answer != STARTED or not descriptors:
                raise CannotInspect("no further process can be started on this machine")
        except BaseException:
            ours.close()
            raise
        os.set_inheritable(descriptors[0], False)
        return ours, descriptors[0]

    def _launch(self) -> None:
        if self._is_closed:
            raise CannotInspect("the inspector is closed")
        self._control, theirs = socket.socketpair()
        self._control.settimeout(START_SECONDS)
        with theirs:
            paths = [str(Path(__file__).parents[2]), *(os.path.abspath(path) for path in sys.path if path)]
            arguments = [str(theirs.fileno()), self._job, str(len(paths)), *paths]
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _BOOTSTRAP, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env={name: os.environ[name] for name in _NEEDED_VARIABLES if name in os.environ},
                    cwd="/",
                    start_new_session=True,  # a signal of the terminal is the daemon's affair
                )
            except OSError as error:
                self._end()
                raise CannotInspect(f"the inspecting process does not start: {error}") from error
        try:
            is_started = self._control.recv(1) == STARTED
        except OSError:
            is_started = False
        if not is_started:
            self._end()
            raise CannotInspect("the inspecting process does not start")

    def _end(self) -> None:
        if self._control:
            self._control.close()  # at which the spawner ends
            self._control = None
        if self._process:
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


def kill(pid_fd: int) -> None:
    """End the process behind ``pid_fd``, and close that."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pid_fd, signal.SIGKILL)
    os.close(pid_fd)
