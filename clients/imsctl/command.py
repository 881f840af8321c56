"""How a command is declared: a coroutine with a session, and a dataclass of its options.

::

    @dataclass(frozen=True, kw_only=True)
    class ShowOptions:
        wide: Annotated[bool, typer.Option(help="Show every field.")] = False

    @command(app, "show", example="imsctl thing show web --wide")
    async def show(session: Session, thing: Thing, options: ShowOptions) -> None: ...

The options every command has (``--address``, ``--output`` …) are added here, so that they may stand
after the command as well as before it.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import os
import typing
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from .credentials import (
    CA_FILE_HELP,
    CERT_HELP,
    CERT_KEY_HELP,
    TOKEN_FILE_HELP,
    TOKEN_HELP,
    CredentialOptions,
)
from .output import TableOrJson
from .session import Session, Settings, run

Command = Callable[..., Coroutine[Any, Any, int | None]]

ADDRESS_VARIABLE = "IMSD_ADDRESS"
PROJECT_VARIABLE = "IMSD_PROJECT"
ADDRESS_HELP = (
    "Where the daemon listens: unix:PATH, tls://HOST:PORT, or HOST:PORT of this machine; else IMSD_ADDRESS, "
    "else its usual socket."
)
PROJECT_HELP = "The project to work in; else IMSD_PROJECT, else the daemon's default."
PANEL = "Options of every command"
# What typer raises for a wrong command line; it has no public name of its own.
UsageError: Any = typer.BadParameter.__mro__[1]


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """The same for every command and for imsctl itself."""

    address: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help=ADDRESS_HELP,
            rich_help_panel=PANEL,
        ),
    ] = ""
    project: Annotated[
        str,
        typer.Option(metavar="PROJECT", help=PROJECT_HELP, rich_help_panel=PANEL),
    ] = ""
    no_progress: Annotated[
        bool, typer.Option("--no-progress", help="Show no progress.", rich_help_panel=PANEL)
    ] = False
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of a failure.", rich_help_panel=PANEL)
    ] = False
    token: Annotated[str, typer.Option(metavar="TOKEN", help=TOKEN_HELP, rich_help_panel=PANEL)] = ""
    token_file: Annotated[str, typer.Option(metavar="FILE", help=TOKEN_FILE_HELP, rich_help_panel=PANEL)] = ""
    ca_file: Annotated[str, typer.Option(metavar="FILE", help=CA_FILE_HELP, rich_help_panel=PANEL)] = ""
    cert: Annotated[str, typer.Option(metavar="FILE", help=CERT_HELP, rich_help_panel=PANEL)] = ""
    cert_key: Annotated[str, typer.Option(metavar="FILE", help=CERT_KEY_HELP, rich_help_panel=PANEL)] = ""

    @property
    def credentials(self) -> CredentialOptions:
        return CredentialOptions(
            token=self.token,
            token_file=self.token_file,
            ca_file=self.ca_file,
            cert=self.cert,
            cert_key=self.cert_key,
        )


def settings_from(options: CommonOptions, outer: Settings | None = None) -> Settings:
    """``options`` as given after the command, on top of those before it."""
    outer = outer or Settings(
        project=os.environ.get(PROJECT_VARIABLE, ""), credentials=CredentialOptions.of(os.environ)
    )
    return Settings(
        address=options.address or outer.address,
        project=options.project or outer.project,
        has_progress=outer.has_progress and not options.no_progress,
        is_debugging=outer.is_debugging or options.debug,
        credentials=options.credentials.on_top_of(outer.credentials),
    )


def command(
    app: typer.Typer,
    name: str,
    *,
    example: str | Sequence[str],
    formats: Any = TableOrJson,
    output_flags: Sequence[str] = ("--output", "-o", "--output-format"),
) -> Callable[[Command], Command]:
    """Declare a command of ``app``.

    ``formats``: a Literal of what ``--output`` may be. ``output_flags``: how that option is written.
    """

    def declare(function: Command) -> Command:
        plan = inspect.signature(function, eval_str=True)
        positional = list(plan.parameters.values())[1:]

        def invoke(context: typer.Context, **given: Any) -> None:
            settings = settings_from(_take(CommonOptions, given), context.obj)
            flags = {flag for parameter in context.command.params for flag in parameter.opts}
            session = Session(settings, given.pop("output"), flags)
            arguments = [
                _take(parameter.annotation, given)
                if dataclasses.is_dataclass(parameter.annotation)
                else given.pop(parameter.name)
                for parameter in positional
            ]
            raise typer.Exit(run(session, function(session, *arguments)))

        output = Annotated[
            formats, typer.Option(*output_flags, help="How to print the result.", rich_help_panel=PANEL)
        ]
        invoke.__signature__ = _signature(positional, output)  # type: ignore[attr-defined]
        invoke.__doc__ = _flowing(function.__doc__ or "")
        app.command(name, cls=PlacedCommand, epilog=epilog(example))(invoke)
        return function

    return declare


def _flowing(text: str) -> str:
    """Paragraphs in one line each: the terminal says where lines end, not the source."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n"))


def epilog(example: str | Sequence[str]) -> str:
    """The last lines of a help page."""
    lines = [example] if isinstance(example, str) else example
    return "\n\n".join(["Example:", *lines])


class PlacedCommand(TyperCommand):
    """A command whose usage errors all say where they happened; its arguments are shown by name alone."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for parameter in self.params:
            if parameter.param_type_name == "argument":
                # Typer would write <str> behind each of them.
                parameter.type = copy.copy(parameter.type)
                parameter.type.get_metavar = lambda **_: ""  # type: ignore[method-assign]

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """``IMAGE`` where typer writes ``{IMAGE}``, which reads as a choice."""
        return [piece.removeprefix("{").removesuffix("}") for piece in super().collect_usage_pieces(ctx)]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except UsageError as error:
            error.ctx = error.ctx or ctx  # typer's parser leaves it out
            raise


class HelpfulGroup(TyperGroup):
    """A group that shows its help, and ends with 2, when no command is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args or ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        typer.echo(ctx.get_help())
        raise typer.Exit(2)


def group(help_text: str, example: str) -> typer.Typer:
    """A group of commands."""
    app = typer.Typer(
        cls=HelpfulGroup,
        help=help_text,
        epilog=epilog(example),
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_keep_group)
    return app


def _keep_group() -> None:
    # Without a callback, typer makes a group with one command into that command.
    return None


def _signature(own: Sequence[inspect.Parameter], output: Any) -> inspect.Signature:
    """What typer is shown: the command's own parameters and those of every command."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature(
        [
            inspect.Parameter("context", keyword, annotation=typer.Context),
            *(expanded for parameter in own for expanded in _expand(parameter)),
            *_fields_of(CommonOptions),
            inspect.Parameter("output", keyword, annotation=output, default="table"),
        ]
    )


def _expand(parameter: inspect.Parameter) -> Iterator[inspect.Parameter]:
    if dataclasses.is_dataclass(parameter.annotation):
        yield from _fields_of(parameter.annotation)
    else:
        yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)


def _fields_of(options: Any) -> Iterator[inspect.Parameter]:
    hints = typing.get_type_hints(options, include_extras=True)
    for field in dataclasses.fields(options):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=hints[field.name],
            default=inspect.Parameter.empty if default is dataclasses.MISSING else default,
        )


def _take(options: Any, given: dict[str, Any]) -> Any:
    """An ``options`` from the values given on the command line, which leave ``given``."""
    return options(**{field.name: given.pop(field.name) for field in dataclasses.fields(options)})
