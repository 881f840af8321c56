"""The entry point of imsctl. It loads the rest only once a signal finds somebody at home."""

from __future__ import annotations

from . import interruption


def main() -> int:
    """Run imsctl; returns its exit code: 0 ok, 1 failed, 2 usage, 130 interrupted."""
    interruption.end_at_once_when_signalled()
    from .command_line import run_command_line

    code = run_command_line()
    interruption.too_late_for_ctrl_c()
    return code
