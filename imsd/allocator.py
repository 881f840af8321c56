"""Tell glibc's allocator to keep what it has: four to five times the throughput of grpc.aio.

A message of 1 MiB is larger than malloc's initial mmap threshold, so each one is mapped, faulted in
page by page, and unmapped again. With both thresholds raised the same memory is used over and over;
the first alone changes nothing. Must run before the first large allocation, so first thing in the process.
"""

from __future__ import annotations

import ctypes
import gc
import os

# Of malloc.h. Setting one also ends the automatic growth of the other.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8

# From this size on, allocations are mapped. glibc takes no more than 32 MiB.
MMAP_THRESHOLD_BYTES = 32 << 20

# Free memory at the top of the heap is given back to the system when it is more than this.
TRIM_THRESHOLD_BYTES = 256 << 20

# Each thread gets an arena of its own, whose freed memory serves no other: with 20 threads that was 60 MiB
# of a daemon's peak, and 40 MiB with two arenas. Threads here allocate seldom and large, so they share one.
ARENAS = 1


def keep_freed_memory() -> bool:
    """Set thresholds and arenas; False (and no harm) where the C library is not glibc."""
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  # musl has a mallopt too, but not these parameters
        mallopt = libc.mallopt
    except (OSError, AttributeError):
        return False
    settings = (
        (M_ARENA_MAX, ARENAS),
        (M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES),
        (M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES),
    )
    return all(mallopt(parameter, value) for parameter, value in settings)


def start_no_blas_threads() -> None:
    """numpy's BLAS starts a thread a core, for matrices that nobody multiplies. Call it before the import."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def keep_loaded_objects() -> None:
    """Spare the garbage collector what lives as long as the process: all that is loaded by now."""
    gc.collect()
    gc.freeze()
