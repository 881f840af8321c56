"""The command `imsd`: serve, show the configuration, tell the version.

Exit codes: 0 ok, 1 failed, 2 wrong usage, 130 interrupted. Errors are a sentence, a hint, a reason.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from imsd.contract import CONTRACT_VERSION, ImsError

from .config_loading import LoadedConfig, load_config

app = typer.Typer(
    name="imsd",
    help="The image management service: disk images in, proved harmless, stored once, out in any format.",
    epilog="Example: imsd serve --state-dir ~/images",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(
    help="Look at the configuration.",
    epilog="Example: imsd config show",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(config_app, name="config")
policy_app = typer.Typer(
    help="Look at the policies, which say who may do what.",
    epilog="Example: imsd policy list",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(policy_app, name="policy")


def _print_version(is_asked: bool) -> None:
    if is_asked:
        version()
        raise typer.Exit


@app.callback()
def root(
    is_version_asked: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="As the command version."),
    ] = False,
) -> None:
    """What stands before a command."""


class LogFormat(StrEnum):
    CONSOLE = "console"
    JSON = "json"


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="TOML. Default: $IMSD_CONFIG, else /etc/imsd/imsd.toml (root) or ~/.config/imsd/imsd.toml.",
    ),
]
StateDir = Annotated[
    Path | None,
    typer.Option("--state-dir", metavar="DIR", help="Where the database, the lock and the store are."),
]
Listen = Annotated[
    list[str] | None,
    typer.Option("--listen", metavar="ADDRESS", help="unix:PATH or HOST:PORT; may be given several times."),
]
LogFormatOption = Annotated[LogFormat | None, typer.Option("--log-format", help="How log lines look.")]


@app.command(
    epilog="Example: imsd serve --state-dir ~/images --listen unix:/tmp/imsd.sock --listen 127.0.0.1:7070"
)
def serve(
    state_dir: StateDir = None,
    listen: Listen = None,
    config: ConfigFile = None,
    log_format: LogFormatOption = None,
) -> None:
    """Run the daemon until SIGTERM or SIGINT; it then finishes what runs, or leaves it resumable."""
    loaded = _load(config, state_dir, listen, log_format)
    # Imported late: `imsd version` and a wrong configuration need none of it.
    from imsd import daemon
    from imsd.core_dumps import leave_no_dumps
    from imsd.logging_setup import set_up_logging

    set_up_logging(loaded.config.log_format, loaded.config.log_level)
    if loaded.config.key_services:
        leave_no_dumps()
    daemon.run(loaded.config)


@config_app.command("show", epilog="Example: IMSD_DRAIN_SECONDS=5 imsd config show -o json")
def show_config(
    state_dir: StateDir = None,
    listen: Listen = None,
    config: ConfigFile = None,
    log_format: LogFormatOption = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print it.")] = Output.TABLE,
) -> None:
    """Print every effective value and where it comes from; secrets are masked, and no store is opened."""
    loaded = _load(config, state_dir, listen, log_format)
    # Imported late: other commands need no driver.
    from imsd.core.bucket_sections import configured_buckets
    from imsd.core.keys.key_sections import configured_key_services
    from imsd.core.plugin_registry import load_plugins
    from imsd.core.policies.loading import load_policies
    from imsd.core.store_sections import configured_stores
    from imsd.logging_setup import set_up_logging
    from imsd.own_places import require_apart

    set_up_logging(loaded.config.log_format, "warning")  # what is said of a plugin goes to standard error
    registry = load_plugins(loaded.config.disabled_plugins)
    stores = configured_stores(registry, loaded.config.stores, loaded.config.default_store)
    load_policies(loaded.config.policy_dir)  # for what is wrong with them
    buckets = configured_buckets(registry, loaded.config.buckets, loaded.config.region)
    config_keys = (loaded.config.key_services, loaded.config.default_key_service)
    key_services = configured_key_services(registry, *config_keys)
    require_apart(loaded.config, stores, buckets, key_services)
    rows = loaded.rows(
        {store.name: store.section() for store in stores},
        {bucket.store.name: bucket.section() for bucket in buckets},
        {each.name: each.section() for each in key_services},
    )
    if output is Output.JSON:
        named = [{"key": row.key, "value": row.value, "source": row.source} for row in rows]
        print(json.dumps(named, indent=2))
        return
    _print_table(("KEY", "VALUE", "SOURCE"), [(row.key, row.text, row.source) for row in rows])


@policy_app.command("list", epilog="Example: imsd policy list --config /etc/imsd/imsd.toml")
def list_policies(
    config: ConfigFile = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print it.")] = Output.TABLE,
) -> None:
    """Read and check every policy as the daemon would at its start, and print them."""
    loaded = _load(config, None, None, None)
    from imsd.core.policies.loading import load_policies  # late: other commands need none

    found = load_policies(loaded.config.policy_dir).texts
    if output is Output.JSON:
        fields = [(each.id, each.effect, str(each.path), each.line, each.text) for each in found]
        names = ("id", "effect", "file", "line", "text")
        print(json.dumps([dict(zip(names, each, strict=True)) for each in fields], indent=2))
        return
    rows = [(each.id, each.effect, str(each.path), str(each.line)) for each in found]
    _print_table(("POLICY", "EFFECT", "FILE", "LINE"), rows)


@app.command(epilog="Example: imsd version")
def version() -> None:
    """Print the version of imsd and of the contract of its drivers."""
    print(f"imsd {version_of('imsd')} (driver contract {CONTRACT_VERSION}, Python {sys.version.split()[0]})")


def _print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(*header, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    # Wider than any terminal when piped: a program that reads lines wants them whole.
    Console(width=None if sys.stdout.isatty() else 1000, markup=False, highlight=False).print(table)


def _load(
    config: Path | None, state_dir: Path | None, listen: list[str] | None, log_format: LogFormat | None
) -> LoadedConfig:
    flags = {
        "state_dir": state_dir,
        "listen": tuple(listen) if listen else None,
        "log_format": log_format.value if log_format else None,
    }
    return load_config(config, flags)


def run_command_line() -> None:
    """Run the command of this process's arguments and exit."""
    try:
        app()
    except ImsError as error:
        print(f"imsd: {error.message} [{error.reason}]", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        is_wrong_usage = error.field.startswith("--")
        sys.exit(2 if is_wrong_usage else 1)
    except KeyboardInterrupt:  # after the daemon's end, whose loop has taken its handlers with it
        print("imsd: interrupted [CANCELLED]", file=sys.stderr)
        sys.exit(130)
