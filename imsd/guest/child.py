"""The process that inspects one disk: confined before it sees the first byte of it.

It may compute and talk through its one channel. It cannot open a file, a socket or a device (no new
descriptor can be had), start a process or write a file, it has no privileges and no environment, and the
kernel ends it when it uses more processor time or memory than it may.
"""

from __future__ import annotations

import codecs
import ctypes
import os
import resource
import signal
import socket
from contextlib import suppress
from pathlib import Path
from types import FrameType

from .budget import BudgetExhausted
from .catalogue import tables
from .channel import DiskGone, InspectingSide
from .inspect import inspect
from .report import GuestReport, not_inspected
from .system_calls import leave_few_calls

MAX_MEMORY_BYTES = 384 << 20
# The kernel's own limit, for a process that does not end itself at the time it was given.
MAX_CPU_SECONDS = 10
# All that are named in this package.
CODECS = ("ascii", "cp437", "latin-1", "utf-8", "utf-16-le", "utf-16-be")
_NOBODY = 65534
# prctl(2), from linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)


def prepare() -> None:
    """Load what is else loaded when it is first needed: a confined process can open no file."""
    for name in CODECS:
        codecs.lookup(name)
    tables()


def confine(kept_fd: int) -> None:
    """Give up everything but ``kept_fd``, which must be above 2; 0 to 2 are null. Raises OSError."""
    _be_the_first_to_go()
    os.closerange(3, kept_fd)
    os.closerange(kept_fd + 1, 1 << 20)
    os.environ.clear()
    _drop_privileges()
    _set_process_flag(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _set_process_flag(_PR_SET_DUMPABLE, 0)
    _set_process_flag(_PR_SET_NO_NEW_PRIVS, 1)
    limits = {
        resource.RLIMIT_CPU: MAX_CPU_SECONDS,
        resource.RLIMIT_AS: MAX_MEMORY_BYTES,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_NOFILE: 0,
    }
    for kind, most in limits.items():
        resource.setrlimit(kind, (most, most))
    leave_few_calls(_libc)


def serve(channel: socket.socket) -> None:
    """Inspect the disk behind ``channel`` and report it."""
    with suppress(DiskGone, BrokenPipeError):
        side = InspectingSide(channel)
        signal.signal(signal.SIGPROF, _end_of_time)
        side.report(_inspected(side).to_json().encode())


def _inspected(side: InspectingSide) -> GuestReport:
    try:
        signal.setitimer(signal.ITIMER_PROF, side.cpu_milliseconds / 1000)
        report = inspect(side.volume)
        signal.setitimer(signal.ITIMER_PROF, 0)
    except BudgetExhausted as reason:  # at the very moment when the inspection began or ended
        return not_inspected(str(reason))
    return report


def _end_of_time(_number: int, _frame: FrameType | None) -> None:
    raise BudgetExhausted("the processor time for an inspection is used up")


def _be_the_first_to_go() -> None:
    """When the machine runs out of memory."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _drop_privileges() -> None:
    if os.geteuid() == 0:
        # In a user namespace that maps only root there is nobody to become, and nothing to give up.
        with suppress(OSError):
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def _set_process_flag(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
