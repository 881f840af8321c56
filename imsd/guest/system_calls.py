"""Leaves a process the few system calls that computing and one socket need; every other one fails with EPERM.

A process of the same user as the daemon could else signal or trace it. Sources: seccomp(2), linux/filter.h,
linux/audit.h, and the tables of system calls of the kernel.
"""

from __future__ import annotations

import ctypes
import os
import struct

# prctl(2)
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
# linux/filter.h: load a word, jump if equal, return
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
# struct seccomp_data: number of the call, architecture
_NUMBER, _ARCHITECTURE = 0, 4
_ALLOW, _KILL_PROCESS, _FAIL_WITH_EPERM = 0x7FFF0000, 0x80000000, 0x00050001

# By machine, as uname tells it: the architecture, and the numbers of the calls that are left.
CALLS: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (
        0xC000003E,
        {
            "read": 0, "write": 1, "close": 3, "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12,
            "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "sched_yield": 24, "mremap": 25,
            "madvise": 28, "setitimer": 38, "getpid": 39, "sendto": 44, "recvfrom": 45, "exit": 60,
            "gettimeofday": 96, "getrusage": 98, "getuid": 102, "sigaltstack": 131, "futex": 202,
            "restart_syscall": 219, "clock_gettime": 228, "clock_nanosleep": 230, "exit_group": 231,
            "getrandom": 318,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "close": 57, "read": 63, "write": 64, "exit": 93, "exit_group": 94, "futex": 98, "setitimer": 103,
            "clock_gettime": 113, "clock_nanosleep": 115, "sched_yield": 124, "restart_syscall": 128,
            "sigaltstack": 132, "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139,
            "getrusage": 165, "gettimeofday": 169, "getpid": 172, "getuid": 174, "sendto": 206,
            "recvfrom": 207, "brk": 214, "munmap": 215, "mremap": 216, "mmap": 222, "mprotect": 226,
            "madvise": 233, "getrandom": 278,
        },
    ),
}  # fmt: skip


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def leave_few_calls(libc: ctypes.CDLL) -> None:
    """Where the kernel or this table has no such filter, nothing happens, and the other limits still hold.

    The process must have given up new privileges before.
    """
    known = CALLS.get(os.uname().machine)
    if known is None:
        return
    code = _filter(known[0], sorted(known[1].values()))
    program = _Program(len(code) // 8, code)
    libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)


def _filter(architecture: int, allowed: list[int]) -> bytes:
    instructions = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_IF_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
    ]
    for index, number in enumerate(allowed):
        instructions.append((_JUMP_IF_EQUAL, len(allowed) - index, 0, number))
    instructions += [(_RETURN, 0, 0, _FAIL_WITH_EPERM), (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("=HBBI", *each) for each in instructions)
