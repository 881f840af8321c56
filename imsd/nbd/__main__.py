"""The entry point of the block server, `imsd-nbd`. Memory is set up before the rest is loaded."""

from __future__ import annotations


def main() -> None:
    """Run until SIGTERM, and exit."""
    from imsd import allocator

    allocator.keep_freed_memory()  # before anything allocates much; see the module
    allocator.start_no_blas_threads()
    from imsd.block_server import run_command_line

    run_command_line()


if __name__ == "__main__":
    main()
