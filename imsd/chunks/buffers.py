"""Windows: the buffers through which a disk flows into the store.

A window holds up to 4 MiB of a disk. In front of them is room for what an earlier window left
undecided: the unfinished chunk, so that every chunk is one contiguous piece of memory, and the bytes
before it in its leaf of the digest tree.

All ingests of a decode pool share its byte budget and a few spare windows. A window is taken for a
piece of work that ends by itself; whoever fills one slowly looks at ``waiting`` and gives it up early.
"""

from __future__ import annotations

import asyncio
import mmap
from weakref import WeakKeyDictionary

import numpy as np

from .chunker import GAP_BLOCKS
from .decode_pool import ByteBudget
from .layout import BLOCK_BYTES, MAX_CHUNK_BYTES
from .tree_digest import LEAF_BYTES

WINDOW_BYTES = 4 << 20
HEADROOM_BYTES = MAX_CHUNK_BYTES + LEAF_BYTES

# A full window, and what is made of its bytes: at first the source's own buffers, then the frames.
WINDOW_COST_BYTES = HEADROOM_BYTES + 2 * WINDOW_BYTES

# Shorter pieces are copied at once: each one that is kept aside has its own cost in memory.
ASIDE_BYTES = 64 << 10

# Windows that are kept for reuse while others are in use, and when none is.
MAX_SPARE = 4
MAX_SPARE_WHEN_IDLE = 2

assert HEADROOM_BYTES >= MAX_CHUNK_BYTES + GAP_BLOCKS * BLOCK_BYTES


class Window:
    """``length`` bytes of a disk from ``start``, at `HEADROOM_BYTES` of ``memory``.

    What is appended may be kept aside until `gather`, which a thread calls: copying 4 MiB takes a
    millisecond of the event loop.
    """

    __slots__ = ("_aside", "length", "memory", "start")

    def __init__(self) -> None:
        # Anonymous pages rather than the heap: what is given back leaves the process.
        self.memory = memoryview(mmap.mmap(-1, HEADROOM_BYTES + WINDOW_BYTES))
        self.start = 0
        self.length = 0
        self._aside: list[tuple[int, memoryview]] = []  # with their place in the memory

    def begin(self, start: int) -> None:
        """Forget the content; the next byte is that at ``start`` of a disk."""
        self.start, self.length = start, 0
        self._aside.clear()

    @property
    def end(self) -> int:
        return self.start + self.length

    @property
    def room(self) -> int:
        return WINDOW_BYTES - self.length

    @property
    def content(self) -> memoryview:
        return self.memory[HEADROOM_BYTES : HEADROOM_BYTES + self.length]

    def append(self, piece: memoryview) -> int:
        """Take as much of ``piece`` as there is room for; returns how many bytes that is.

        The piece may be kept: nobody changes it until `gather`.
        """
        taken = min(len(piece), self.room)
        end = HEADROOM_BYTES + self.length
        if taken < ASIDE_BYTES:
            self.memory[end : end + taken] = piece[:taken]
        else:
            self._aside.append((end, piece[:taken]))
        self.length += taken
        return taken

    def gather(self) -> None:
        """Copy what was kept aside to its place, without the interpreter's lock."""
        memory = np.frombuffer(self.memory, np.uint8)
        for at, piece in self._aside:
            memory[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
        self._aside.clear()

    def cut_off(self, length: int) -> bytes:
        """Take the last ``length`` bytes out again."""
        if not length:
            return b""
        self.gather()
        self.length -= length
        end = HEADROOM_BYTES + self.length
        return bytes(self.memory[end : end + length])

    def whole_blocks(self) -> memoryview:
        """The content, padded with zeros to a multiple of 4 KiB."""
        padding = -self.length % BLOCK_BYTES
        end = HEADROOM_BYTES + self.length
        self.memory[end : end + padding] = bytes(padding)
        return self.memory[HEADROOM_BYTES : end + padding]

    def prepend(self, carry: bytes) -> memoryview:
        """Put ``carry`` right before the content; returns both, with the padding."""
        start = HEADROOM_BYTES - len(carry)
        self.memory[start:HEADROOM_BYTES] = carry
        return self.memory[start : HEADROOM_BYTES + self.length + -self.length % BLOCK_BYTES]


class WindowBuffers:
    """The windows of one budget. ``waiting``: how many tasks wait for one now."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._spare: list[Window] = []
        self._taken = 0
        self.waiting = 0

    async def take(self, start: int) -> Window:
        """An empty window at guest offset ``start``, in the order of asking."""
        self.waiting += 1
        try:
            await self._budget.acquire(WINDOW_COST_BYTES)
        finally:
            self.waiting -= 1
        self._taken += 1
        window = self._spare.pop() if self._spare else Window()
        window.begin(start)
        return window

    def give_back(self, window: Window) -> None:
        """Nobody touches ``window`` any more."""
        window.begin(0)
        self._budget.release(WINDOW_COST_BYTES)
        self._taken -= 1
        self._spare.append(window)
        del self._spare[MAX_SPARE if self._taken else MAX_SPARE_WHEN_IDLE :]


_buffers: WeakKeyDictionary[ByteBudget, WindowBuffers] = WeakKeyDictionary()


def window_buffers(budget: ByteBudget) -> WindowBuffers:
    """The windows that all users of ``budget`` share."""
    return _buffers.setdefault(budget, WindowBuffers(budget))


class Turns:
    """Lets numbered tasks through a passage one by one, in the order of their numbers."""

    def __init__(self) -> None:
        self._next = 0
        self._waiting: dict[int, asyncio.Future[None]] = {}

    async def reach(self, number: int) -> None:
        """Wait for the turn of ``number``; it passes on by `leave`."""
        if number != self._next:
            self._waiting[number] = asyncio.get_running_loop().create_future()
            await self._waiting[number]

    def leave(self) -> None:
        self._next += 1
        turn = self._waiting.pop(self._next, None)
        if turn and not turn.done():
            turn.set_result(None)
