"""Keys are in memory only: a process that has some leaves no core dump of it."""

from __future__ import annotations

import ctypes
import resource
import sys

# Of prctl(2).
PR_SET_DUMPABLE = 4


def leave_no_dumps() -> None:
    """Neither a core dump nor a debugger of the same user gets what is in this memory; root's still does."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
