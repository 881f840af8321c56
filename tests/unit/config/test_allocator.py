"""The allocator's thresholds."""

from __future__ import annotations

import platform
import subprocess
import sys

from imsd.allocator import keep_freed_memory

FREE_AND_TAKE = """
import ctypes, resource, sys
from imsd.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
for _ in range(20):
    blocks = [ctypes.c_void_p(libc.malloc(1 << 20)) for _ in range(8)]
    for block in blocks:
        ctypes.memset(block, 1, 1 << 20)
    for block in blocks:
        libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def faults(how: str) -> int:
    command = [sys.executable, "-c", FREE_AND_TAKE, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)


def test_large_blocks_are_reused_without_faults() -> None:
    if platform.libc_ver()[0] != "glibc":
        assert keep_freed_memory() is False
        return
    # 20 times 8 blocks of 256 pages: all of them are faulted in again unless they are kept
    assert faults("kept") + 20_000 < faults("given back")


def test_loaded_objects_are_not_collected_again() -> None:
    code = (
        "import gc; from imsd.allocator import keep_loaded_objects; keep_loaded_objects();"
        "print(gc.get_freeze_count() > 1000, len(gc.get_objects()) < 1000)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.split() == ["True", "True"]
