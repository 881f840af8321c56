"""What every command has: settings, a way to the daemon, notices, and its end as an exit code."""

from __future__ import annotations

import asyncio
import signal
import sys
import traceback
from collections.abc import AsyncIterator, Collection, Coroutine, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer

from .credentials import CredentialOptions
from .interruption import INTERRUPTED, SIGNALS, leave_to_asyncio
from .standard_output import OutputFailed, discard_output

if TYPE_CHECKING:
    from ims_client import ClientError, ImsClient

    from .progress import ProgressView

FAILED = 1

# The options that set a field of a request; the daemon names the field.
FLAGS = {
    "name": "--name",
    "description": "--description",
    "disk_format": "--format",
    "compression": "--compress",
    "os_version": "--os-version",
    "architecture": "--arch",
    "boot_mode": "--boot-mode",
    "server_type": "--server-type",
    "min_disk_gb": "--min-disk",
    "min_ram_mb": "--min-ram",
    "max_ram_mb": "--max-ram",
    "tags": "--tag",
    "properties": "--property",
    "order_by": "--sort",
    "request_id": "--request-id",
    "project_id": "--project",
    "user_id": "--user",
}


class Interrupted(Exception):
    """The user broke off; ``str()`` says what that means for the work, ``hint`` how to go on."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Settings:
    """The options that every command takes; empty: the default."""

    address: str = ""
    project: str = ""
    has_progress: bool = True
    is_debugging: bool = False
    credentials: CredentialOptions = field(default_factory=CredentialOptions)


class Session:
    """One run of one command."""

    def __init__(self, settings: Settings, output: str, flags: Collection[str] = ()) -> None:
        self.settings = settings
        self.output = output
        self._flags = flags  # the options the command has
        self._flag_of = dict(FLAGS)

    @property
    def is_json(self) -> bool:
        return self.output == "json"

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[ImsClient]:
        """A client of the daemon that the options name."""
        from ims_client import connect

        settings, said = self.settings, self.settings.credentials
        connection = connect(
            settings.address,
            settings.project,
            token=said.read_token(self.note),
            ca_file=said.ca_file,
            cert_file=said.cert,
            key_file=said.cert_key,
        )
        async with AsyncExitStack() as stack:
            try:
                client = await stack.enter_async_context(connection)
            except ValueError as error:
                raise typer.BadParameter(str(error)) from None
            yield client

    def progress(self) -> AbstractContextManager[ProgressView]:
        """Progress on standard error, unless it is switched off."""
        from .progress import open_progress

        return open_progress(self.settings.has_progress)

    def in_options(self, error: ClientError) -> str:
        """The message of ``error``, with the option that set the field of the request at fault."""
        field, _, _ = getattr(error, "field", "").partition(".")
        flag = self._flag_of.get(field, "")
        return f"{error.message} ({flag})" if flag in self._flags else error.message

    def is_set_by(self, flag: str, field: str) -> None:
        """A field of the request is set by another option than in other commands."""
        self._flag_of[field] = flag

    def note(self, text: str) -> None:
        """Tell the user something that is not the result."""
        print(text, file=sys.stderr)


def run(session: Session, command: Coroutine[Any, Any, int | None]) -> int:
    """Run a command to its end and return its exit code; failures are told on standard error."""
    from ims_client import ClientError, keep_large_buffers

    keep_large_buffers()
    try:
        with _cleaning_up():
            code = asyncio.run(_until_signalled(command)) or 0
            sys.stdout.flush()
        return code
    except ClientError as error:
        return _fail(session, error, session.in_options(error), error.hint, error.reason)
    except Interrupted as interrupted:
        _complain(str(interrupted), interrupted.hint, "CANCELLED")
        return INTERRUPTED
    except (KeyboardInterrupt, asyncio.CancelledError):
        _complain("interrupted", "", "CANCELLED")
        return INTERRUPTED
    except BrokenPipeError:
        discard_output()  # whoever read it has left: end quietly
        return FAILED
    except OutputFailed as error:
        return _fail(session, error, str(error), error.hint, "LOCAL_FILE")
    except (typer.BadParameter, typer.Exit):
        raise
    except Exception as error:
        hint = "this is a defect of imsctl: run the command again with --debug and report what it prints"
        return _fail(session, error, f"{type(error).__name__}: {error}", hint, "INTERNAL")


def print_failure(message: str, hint: str, reason: str) -> None:
    """One failure of several that a command goes on after."""
    _complain(message, hint, reason)


@contextmanager
def _cleaning_up() -> Iterator[None]:
    """Inside, signals do not end the process at once; outside they do as before."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    with suppress(ValueError):  # not in the main thread
        leave_to_asyncio()
    try:
        yield
    finally:
        with suppress(ValueError):
            for number, handler in before.items():
                signal.signal(number, handler)


async def _until_signalled(command: Coroutine[Any, Any, int | None]) -> int | None:
    """Run ``command``; SIGTERM and SIGHUP cancel it as Ctrl-C does, so that it can clean up."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        with suppress(ValueError, RuntimeError):  # not in the main thread
            loop.add_signal_handler(number, task.cancel)
    return await command


def _fail(session: Session, error: Exception, message: str, hint: str, reason: str) -> int:
    if session.settings.is_debugging:
        traceback.print_exception(error)
    _complain(message, hint, reason)
    return FAILED


def _complain(message: str, hint: str, reason: str) -> None:
    with suppress(OSError):
        print(f"imsctl: {_escaped(message)} [{reason}]", file=sys.stderr)
        if hint:
            print(f"  {_escaped(hint)}", file=sys.stderr)


def _escaped(text: str) -> str:
    """``text`` with what would steer a terminal written out: names come from other people."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
