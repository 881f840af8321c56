"""The layers of the configuration: defaults < file < environment < flags, and where each value is from."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import ByteSize, ValidationError
from pydantic_settings import EnvSettingsSource

from imsd.contract import InvalidRequest

from .config import ENV_PREFIX, SECTIONS, Config, default_bucket_section, default_store_section

# Variables that are no keys: of the clients, of the choice of the file, and of tests and benchmarks.
OTHER_VARIABLES = (
    "IMSD_ADDRESS",
    "IMSD_PROJECT",
    "IMSD_TOKEN",
    "IMSD_TOKEN_FILE",
    "IMSD_CA_FILE",
    "IMSD_CERT",
    "IMSD_CERT_KEY",
    "IMSD_CONFIG",
)
OTHER_PREFIXES = ("IMSD_TEST_", "IMSD_BENCH_", "IMSD_DEMO_")

# A key of which one of these words is a part has a value that is not shown.
SECRET_WORDS = ("secret", "password", "token", "credential")

# Of keys that say where a secret is kept.
PLACE_ENDINGS = ("_file", "_credential")

HIDDEN = "********"

DEFAULT = "default"
FLAG = "flag"


@dataclass(frozen=True, slots=True)
class Layer:
    """Values from one place; ``source`` is how `imsd config show` calls it."""

    source: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ConfigRow:
    """One effective value, and where it comes from; ``value`` is one of JSON, sizes are bytes."""

    key: str
    value: Any
    text: str
    source: str


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """The configuration, and the layers it was made of, highest first."""

    config: Config
    layers: Sequence[Layer]

    def rows(
        self,
        stores: Mapping[str, Mapping[str, Any]],
        buckets: Mapping[str, Mapping[str, Any]],
        key_services: Mapping[str, Mapping[str, Any]],
    ) -> list[ConfigRow]:
        """Every effective value with its source; secrets are masked.

        ``stores``, ``buckets``, ``key_services``: their sections as they are understood, which only their
        drivers can say.
        """
        values = {key: getattr(self.config, key) for key in Config.model_fields}
        values |= {"stores": stores, "buckets": buckets, "key_services": key_services}
        values |= {key: dict(getattr(self.config, key)) for key in SECTIONS}
        return [
            ConfigRow(".".join(key), _as_json(key, value), _as_text(key, value), self._source(key))
            for key, value in _leaves(values)
        ]

    def _source(self, key: Sequence[str]) -> str:
        for layer in self.layers:
            value: Any = layer.values
            for part in key:
                value = value.get(part) if isinstance(value, Mapping) else None
            if value is not None:
                return layer.source
        return DEFAULT


def load_config(file: Path | None = None, flags: Mapping[str, Any] | None = None) -> LoadedConfig:
    """Read the file (or the default one, if it exists) and the environment; ``flags`` go before both.

    A flag that is None was not given. Raises InvalidRequest (INVALID_CONFIGURATION), naming where the
    mistake is; the ``field`` of one in a flag is the flag, "--listen" for example.
    """
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    path = file or default_file()
    layers = [Layer(FLAG, given), Layer("environment", _environment())]
    if path is not None:
        layers.append(Layer(str(path), _read_file(path)))
    merged: dict[str, Any] = {}
    for layer in reversed(layers):
        merged = _merge(merged, layer.values)
    _complete_default(merged, "stores", default_store_section)
    _complete_default(merged, "buckets", default_bucket_section)
    try:
        return LoadedConfig(Config(**merged).from_file(path), layers)
    except ValidationError as error:
        raise _explained(error, layers) from error


def default_file() -> Path | None:
    """$IMSD_CONFIG, else /etc/imsd/imsd.toml (root) or the user's imsd/imsd.toml, if it exists."""
    if chosen := os.environ.get(f"{ENV_PREFIX}CONFIG"):
        return Path(chosen)
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    path = (Path("/etc") if os.geteuid() == 0 else home) / "imsd" / "imsd.toml"
    return path if path.is_file() else None


def nearest(key: str, known: Sequence[str]) -> str:
    """A hint: the known key that ``key`` may have meant, or all of them."""
    close = get_close_matches(key, known, n=1)
    return f"did you mean {close[0]}?" if close else f"the keys are {', '.join(sorted(known))}"


def _environment() -> dict[str, Any]:
    keys = list(Config.model_fields)
    for variable in sorted(os.environ):
        is_other = variable in OTHER_VARIABLES or variable.startswith(OTHER_PREFIXES)
        if variable.startswith(ENV_PREFIX) and not is_other:
            key = variable.removeprefix(ENV_PREFIX).lower().split("__")[0]
            if key not in keys:
                variables = [ENV_PREFIX + known.upper() for known in keys]
                raise _invalid(f"{variable} is no variable of imsd", variable, nearest(variable, variables))
    return EnvSettingsSource(Config)()


def _read_file(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise _invalid(f"the configuration file {path} cannot be read: {error.strerror}", "config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _invalid(f"{path} is not TOML: {error}", "config") from error
    return values


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``, section by section."""
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, Mapping):
            section = merged.get(key)
            merged[key] = _merge(section if isinstance(section, Mapping) else {}, value)
        else:
            merged[key] = value
    return merged


def _complete_default(
    merged: dict[str, Any], kind: str, default_section: Callable[[Path], dict[str, Any]]
) -> None:
    """Let a lone option such as IMSD_STORES__MAIN__FSYNC change the store (or bucket) one has anyway."""
    sections = merged.get(kind)
    if not isinstance(sections, dict) or not isinstance(sections.get("main"), dict):
        return
    if "driver" not in sections["main"] and len(sections) == 1:
        state_dir = Config(**{key: merged[key] for key in ("state_dir",) if key in merged}).state_dir
        sections["main"] = default_section(state_dir) | sections["main"]


def _explained(error: ValidationError, layers: Sequence[Layer]) -> InvalidRequest:
    """The first thing that is wrong, with its place."""
    first = error.errors(include_url=False, include_context=False)[0]
    key = str(first["loc"][0]) if first["loc"] else ""
    source = next((layer.source for layer in layers if key in layer.values), DEFAULT)
    is_nested = key in SECTIONS and len(first["loc"]) > 1
    key, known = (f"{key}.{first['loc'][1]}", SECTIONS[key]) if is_nested else (key, Config)
    if first["type"] == "extra_forbidden":
        unknown = key.rpartition(".")[2]
        return _invalid(f"{source}: unknown key {key!r}", key, nearest(unknown, list(known.model_fields)))
    said = first["msg"].removeprefix("Value error, ")
    said = said[:1].lower() + said[1:]
    field = f"--{key.replace('_', '-')}" if source == FLAG else key
    return _invalid(f"{source}: {key}: {said}" if key else said, field)


def _invalid(message: str, field: str, hint: str = "see `imsd config show` for every key") -> InvalidRequest:
    return InvalidRequest(message, reason="INVALID_CONFIGURATION", hint=hint, field=field)


def _leaves(values: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), None if value == {} else value


def _as_json(key: Sequence[str], value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_as_json(key, each) for each in value]
    is_plain = value is None or isinstance(value, bool | int | float)
    return value if is_plain and not _is_secret(key) and key[-1] != "socket_mode" else _as_text(key, value)


def _as_text(key: Sequence[str], value: Any) -> str:
    if _is_secret(key):
        return HIDDEN
    if key[-1] == "socket_mode":
        return f"{value:04o}"
    if isinstance(value, ByteSize):
        return _size(value)
    if isinstance(value, tuple | list):
        return ", ".join(_as_text(key, each) for each in value)
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else _without_password(str(value))


def _is_secret(key: Sequence[str]) -> bool:
    name = key[-1].lower()
    return any(word in name for word in SECRET_WORDS) and not name.endswith(PLACE_ENDINGS)


def _size(value: int) -> str:
    """The shortest exact way to say it."""
    for unit, size in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value and value % size == 0:
            return f"{value // size}{unit}"
    return str(value)


def _without_password(text: str) -> str:
    """A URL without its password; any other text as it is."""
    try:
        password = urlsplit(text).password if "://" in text else None
    except ValueError:
        return text
    return text.replace(f":{password}@", f":{HIDDEN}@") if password else text
