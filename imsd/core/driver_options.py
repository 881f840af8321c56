"""A section of the configuration becomes the options of a driver: a frozen dataclass, every key checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from imsd.contract import InvalidRequest

OptionsT = TypeVar("OptionsT")

TRUE = ("true", "yes", "on", "1")
FALSE = ("false", "no", "off", "0")


class _Misfit(Exception):
    """A value that is not of the type; ``str()`` says what is wanted."""


def parse_options(options: type[OptionsT], values: Mapping[str, object], section: str) -> OptionsT:
    """Make ``options`` of ``values``; ``section`` is what messages call them, "stores.main" for example.

    Texts, as they come from the environment, are understood for every type. Relative paths are taken
    from the working directory. Raises InvalidRequest (INVALID_CONFIGURATION).
    """
    known = {field.name: field for field in fields(options)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise _invalid(f"{section}: unknown key {key!r}", f"{section}.{key}", _nearest(key, list(known)))
    missing = [name for name, field in known.items() if name not in values and _is_required(field)]
    if missing:
        raise _invalid(f"{section}: {missing[0]} is missing", f"{section}.{missing[0]}")
    hints = get_type_hints(options)
    parsed = {}
    for key, value in values.items():
        try:
            parsed[key] = _parse(hints[key], value)
        except _Misfit as misfit:
            raise _invalid(f"{section}: {key} must be {misfit}", f"{section}.{key}") from None
    try:
        return options(**parsed)
    except InvalidRequest as error:
        raise _invalid(f"{section}: {error.message}", f"{section}.{error.field}", error.hint) from error


def _is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _parse(hint: Any, value: object) -> Any:
    if get_origin(hint) in (Union, UnionType):
        return _parse_one_of(get_args(hint), value)
    if get_origin(hint) is Literal:
        if value in get_args(hint):
            return value
        raise _Misfit(f"one of {', '.join(map(str, get_args(hint)))}")
    if get_origin(hint) is tuple:
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            raise _Misfit("a list")
        return tuple(_parse(get_args(hint)[0], part) for part in parts)
    try:
        return _PARSERS[hint](value)
    except KeyError:
        raise _Misfit(f"a {hint}, which no configuration can hold: a defect of the driver") from None


def _parse_one_of(hints: tuple[Any, ...], value: object) -> Any:
    if NoneType in hints and (value is None or value == ""):
        return None
    misfits = []
    for hint in hints:
        if hint is NoneType:
            continue
        try:
            return _parse(hint, value)
        except _Misfit as misfit:
            misfits.append(str(misfit))
    raise _Misfit(" or ".join(misfits))


def _bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in TRUE + FALSE:
        return value.lower() in TRUE
    raise _Misfit("true or false")


def _int(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.removeprefix("-").isdecimal():
        return int(value)
    raise _Misfit("a whole number")


def _float(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    try:
        return float(value) if isinstance(value, str) else _refuse_number()
    except ValueError:
        return _refuse_number()


def _refuse_number() -> float:
    raise _Misfit("a number")


def _str(value: object) -> str:
    if isinstance(value, str):
        return value
    raise _Misfit("a text")


def _path(value: object) -> Path:
    if isinstance(value, str | Path) and str(value) and "\0" not in str(value):
        return Path(value).expanduser().absolute()
    raise _Misfit("a path")


_PARSERS: Mapping[Any, Any] = {bool: _bool, int: _int, float: _float, str: _str, Path: _path}


def _nearest(key: str, known: list[str]) -> str:
    close = get_close_matches(key, known, n=1)
    return f"did you mean {close[0]}?" if close else f"the keys are {', '.join(known)}"


def _invalid(message: str, field: str, hint: str = "") -> InvalidRequest:
    return InvalidRequest(message, reason="INVALID_CONFIGURATION", hint=hint, field=field)
