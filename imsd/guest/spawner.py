"""A small process that starts inspecting processes: it has imported what they need, and nothing else.

A fork of it is ready in a few milliseconds. It has one thread, no secrets, and of the daemon nothing but
a socket, so a fork of it is safe and holds nothing worth stealing. It ends with the daemon: its socket is
closed then.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from collections.abc import Callable
from importlib import import_module

from .child import confine, prepare

Job = Callable[[socket.socket], None]
STARTED, NOT_STARTED = b"+", b"-"


def main() -> None:
    """``sys.argv``: the descriptor of the control socket, and the job as ``module:function``."""
    control = socket.socket(fileno=int(sys.argv[1]))
    module, _, function = sys.argv[2].partition(":")
    job: Job = getattr(import_module(module), function)
    prepare()
    # Who stops a service tells all its processes; inspections that run may finish while the daemon drains.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a child ended: the kernel forgets it
    gc.collect()
    gc.freeze()  # or a collection in a child would copy every page that it shares with this process
    control.sendall(STARTED)
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message or not descriptors:
            return
        channel = socket.socket(fileno=descriptors[0])
        _start(control, channel, job)
        channel.close()


def _start(control: socket.socket, channel: socket.socket, job: Job) -> None:
    """Answer with a pidfd of the new process; a number could name another process by the time it is used."""
    try:
        pid = os.fork()
    except OSError:
        control.sendall(NOT_STARTED)
        return
    if not pid:
        _run(control, channel, job)
    try:
        pid_fd = os.pidfd_open(pid)
    except OSError:  # it has ended already
        control.sendall(NOT_STARTED)
        return
    socket.send_fds(control, [STARTED], [pid_fd])
    os.close(pid_fd)


def _run(control: socket.socket, channel: socket.socket, job: Job) -> None:
    """In the new process. Never returns."""
    try:
        control.detach()
        confine(channel.fileno())
        job(channel)
    finally:
        os._exit(0)
