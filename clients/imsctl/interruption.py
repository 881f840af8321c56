"""What a signal does while no command runs: it ends imsctl at once, with one line.

Loads nothing heavy, so that it works before the rest of imsctl is there. A command that runs cleans up
after itself; see `imsctl.session`.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

INTERRUPTED = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def end_at_once_when_signalled() -> None:
    """From now on SIGINT, SIGTERM and SIGHUP end the process; what is ignored (`nohup`) stays so."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end_at_once)


def end_at_once(number: int, frame: FrameType | None) -> None:
    """The handler. It raises nothing: half the modules on the way would make something else of it."""
    try:
        os.write(2, b"imsctl: interrupted [CANCELLED]\n")
    except OSError:
        pass  # nobody listens
    os._exit(INTERRUPTED)


def leave_to_asyncio() -> None:
    """Ctrl-C as Python has it, which is what `asyncio.run` makes a cancellation of."""
    if signal.getsignal(signal.SIGINT) is end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def too_late_for_ctrl_c() -> None:
    """All is done and told: Python's own exit, a tenth of a second with gRPC, must not turn that round."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
