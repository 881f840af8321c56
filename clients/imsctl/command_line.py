"""The tree of commands. Groups are loaded when they are used: start-up time is part of every command."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated, Any

import typer

from .command import (
    ADDRESS_HELP,
    ADDRESS_VARIABLE,
    PROJECT_HELP,
    PROJECT_VARIABLE,
    CommonOptions,
    HelpfulGroup,
    UsageError,
    epilog,
    settings_from,
)
from .credentials import CA_FILE_HELP, CERT_HELP, CERT_KEY_HELP, TOKEN_FILE_HELP, TOKEN_HELP
from .session import FAILED, print_failure
from .standard_output import OutputFailed, discard_output, watch_output

WRONG_USAGE = 2

# Each module has an ``app``.
GROUPS = {
    "image": "imsctl.image_group",
    "job": "imsctl.job_group",
    "upload": "imsctl.upload_group",
    "member": "imsctl.member_group",
    "tag": "imsctl.tag_group",
    "attachment": "imsctl.attachment_group",
    "bucket": "imsctl.bucket_group",
    "object": "imsctl.object_group",
    "key": "imsctl.key_group",
    "quota": "imsctl.quota_group",
    "limit": "imsctl.limit_group",
    "usage": "imsctl.usage_group",
    "store": "imsctl.store_group",
    "driver": "imsctl.driver_group",
    "format": "imsctl.format_group",
    "os-version": "imsctl.os_version_group",
    "policy": "imsctl.policy_group",
    "trace": "imsctl.trace_group",
    "service": "imsctl.service_group",
    "project": "imsctl.project_group",
    "user": "imsctl.user_group",
    "group": "imsctl.group_group",
    "role": "imsctl.role_group",
    "token": "imsctl.token_group",
    "whoami": "imsctl.whoami_command",
}


class LazyGroup(HelpfulGroup):
    """The top of the command tree; imports only the branch that is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(GROUPS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in GROUPS:
            return None
        if cmd_name not in self.commands:
            branch = typer.main.get_command(importlib.import_module(GROUPS[cmd_name]).app)
            branch.name = cmd_name
            self.commands[cmd_name] = branch
        return self.commands[cmd_name]


app = typer.Typer(
    cls=LazyGroup,
    name="imsctl",
    pretty_exceptions_enable=False,
    epilog=epilog(
        [
            "imsctl image import disk.qcow2 --name debian-12",
            "imsctl image list",
            "imsctl image download debian-12 -o debian.raw",
        ]
    ),
)


def _print_version(asked: bool) -> None:
    if asked:
        from imsd import __version__

        print(f"imsctl {__version__}")
        raise typer.Exit


@app.callback()
def root(  # noqa: PLR0913  # one parameter an option is how typer works
    context: typer.Context,
    address: Annotated[str, typer.Option(metavar="ADDRESS", help=ADDRESS_HELP)] = "",
    project: Annotated[str, typer.Option(metavar="PROJECT", help=PROJECT_HELP)] = "",
    no_progress: Annotated[bool, typer.Option("--no-progress", help="Show no progress.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")] = False,
    token: Annotated[str, typer.Option(metavar="TOKEN", help=TOKEN_HELP)] = "",
    token_file: Annotated[str, typer.Option(metavar="FILE", help=TOKEN_FILE_HELP)] = "",
    ca_file: Annotated[str, typer.Option(metavar="FILE", help=CA_FILE_HELP)] = "",
    cert: Annotated[str, typer.Option(metavar="FILE", help=CERT_HELP)] = "",
    cert_key: Annotated[str, typer.Option(metavar="FILE", help=CERT_KEY_HELP)] = "",
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version."),
    ] = False,
) -> None:
    """Disk images: in, out, and what happens to them in between."""
    options = CommonOptions(
        address=address,
        project=project,
        no_progress=no_progress,
        debug=debug,
        token=token,
        token_file=token_file,
        ca_file=ca_file,
        cert=cert,
        cert_key=cert_key,
    )
    context.obj = settings_from(options)


def run_command_line() -> int:
    """Run what the arguments say; returns the exit code: 0 ok, 1 failed, 2 usage, 130 interrupted."""
    if sys.stderr is None:  # closed: print() would take standard output instead
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    try:
        watch_output()
        _check_encoding()
        code = typer.main.get_command(app).main(prog_name="imsctl", standalone_mode=False) or 0
        sys.stdout.flush()  # a help page
    except UsageError as error:
        path = error.ctx.command_path if error.ctx else "imsctl"
        print_failure(_sentence(error), f"see `{path} --help`", "USAGE")
        return WRONG_USAGE
    except OutputFailed as error:
        print_failure(str(error), error.hint, "LOCAL_FILE")
        return FAILED
    except BrokenPipeError:
        discard_output()
        return FAILED
    return int(code)


def _check_encoding() -> None:
    """What is no text cannot be sent. Raises typer.BadParameter."""
    given = {f"argument {number}": text for number, text in enumerate(sys.argv[1:], 1)}
    given |= {f"variable {name}": os.environ.get(name, "") for name in (ADDRESS_VARIABLE, PROJECT_VARIABLE)}
    for name, text in given.items():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise typer.BadParameter(f"{name}, {os.fsencode(text)!r}, is not UTF-8") from None


def _sentence(error: Any) -> str:
    """What is wrong, without a capital letter and a full stop."""
    names_no_parameter = not getattr(error, "param", None) and not getattr(error, "param_hint", None)
    text = error.message if names_no_parameter else error.format_message()
    return str(text[:1].lower() + text[1:].removesuffix("."))
