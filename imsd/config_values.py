"""How values of the configuration are written: lists with commas, octal modes, paths."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode


def split(value: object) -> object:
    """A text from the environment is a list with commas."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def octal(value: object) -> object:
    return int(value, 8) if isinstance(value, str) else value


def absolute(value: object) -> object:
    """An empty text is no path."""
    if value == "":
        return None
    return Path(value).expanduser().absolute() if isinstance(value, str | Path) else value


def of_projects(names: tuple[str, ...]) -> tuple[str, ...]:
    """Ids of projects, or "*" for every one."""
    for name in names:
        if name != "*" and not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
            raise ValueError(f'{name[:80]!r} is no project: name projects by their ids, or "*" for every one')
    return names


Texts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(split)]
AbsolutePath = Annotated[Path, BeforeValidator(absolute)]
OptionalPath = Annotated[Path | None, BeforeValidator(absolute)]
Projects = Annotated[tuple[str, ...], NoDecode, BeforeValidator(split), AfterValidator(of_projects)]
