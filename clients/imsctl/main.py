"""The entry point of imsctl. It loads the rest only once a signal finds somebody at home."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run imsctl; returns its exit code: 0 ok, 1 failed, 2 usage, 130 interrupted."""
    try:
        from . import interruption  # here: even the module signal takes some milliseconds

        interruption.end_at_once_when_signalled()
    except KeyboardInterrupt:
        print("imsctl: interrupted [CANCELLED]", file=sys.stderr)
        return 130
    # The library tells of each handshake that fails, in lines of its own.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    from .command_line import run_command_line

    code = run_command_line()
    interruption.too_late_for_ctrl_c()
    return code
