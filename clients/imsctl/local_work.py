"""Work on a local image in a thread, watched, and ended by Ctrl-C at its next step."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from .local_image import OnPhase, Stopped
from .progress import TransferMeter
from .session import Session

R = TypeVar("R")


async def watched(session: Session, work: Callable[[OnPhase], R]) -> R:
    """What ``work`` returns; it is called in a thread and says how far it is. Raises what it raises."""
    is_stopping = threading.Event()
    with session.progress() as view:
        row = view.row()
        meters: dict[str, TransferMeter] = {}

        def advance(phase: str, done: int, total: int) -> None:
            if is_stopping.is_set():
                raise Stopped
            meter = meters.setdefault(phase, TransferMeter(phase, total))
            row.show(meter.at(done, total))

        working = asyncio.ensure_future(asyncio.to_thread(work, advance))
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            is_stopping.set()
            await asyncio.wait([working])  # it draws on the view, and Python's exit would wait for it as well
            if not working.cancelled():
                working.exception()  # fetched, so that nobody complains of it
            raise
