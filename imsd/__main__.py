"""The entry point of imsd. It loads the rest only once Ctrl-C is answered and memory is set up."""

from __future__ import annotations

import os
import signal
from types import FrameType

INTERRUPTED = 130


def main() -> None:
    """Run the command of this process's arguments and exit."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _end_at_once)
    from . import allocator

    allocator.keep_freed_memory()  # before anything allocates much; see the module
    allocator.start_no_blas_threads()
    # gRPC's core would tell of each stranger whose handshake fails, in lines of its own.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    from .command_line import run_command_line

    run_command_line()


def _end_at_once(number: int, frame: FrameType | None) -> None:
    """Ctrl-C until the daemon has its own answer to it: nothing has begun that would need an end.

    It raises nothing: half the modules that are being loaded would make something else of it.
    """
    try:
        os.write(2, b"imsd: interrupted [CANCELLED]\n")
    except OSError:
        pass  # nobody listens
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
