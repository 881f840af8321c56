"""Options that name things of the contract: formats, states, tags; wrong ones are usage errors (exit 2)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import typer

from imsd.v1 import image_pb2

from . import json_fields
from .json_fields import enum_texts, enum_value

# What the contract allows, see image.proto.
MAX_DISK_GB = 1048576
MAX_RAM_MB = 4194304

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


def choose(enum: Any, text: str, option: str) -> int:
    """The value of ``enum`` that ``text`` names; 0 for the empty text."""
    return _choose(enum, text, option, enum_texts(enum))


def compression(text: str) -> image_pb2.Compression.ValueType:
    """The value that ``--compress`` names; 0 for the empty text."""
    known = [json_fields.compression(value) for value in image_pb2.Compression.values() if value]
    return image_pb2.Compression.ValueType(_choose(image_pb2.Compression, text, "--compress", known))


def _choose(enum: Any, text: str, option: str, known: Iterable[str]) -> int:
    if not text:
        return 0
    value = enum_value(enum, text.replace("-", "_"))
    if value is None or not value:
        raise typer.BadParameter(f"{text!r} is none of: {', '.join(known)}", param_hint=option)
    return value


def key_values(texts: Iterable[str], option: str) -> dict[str, str]:
    """``K=V`` of an option that may be repeated, with another K each time."""
    found: dict[str, str] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint=option)
        if key in found:
            kind = option.removeprefix("--")
            raise typer.BadParameter(f"the {kind} {key} is given twice", param_hint=option)
        found[key] = value
    return found


def sha256(text: str, option: str) -> str:
    """64 hex digits, in lower case; the empty text stays empty."""
    lower = text.strip().lower().removeprefix("sha256:")
    if lower and not _SHA256.match(lower):
        raise typer.BadParameter("a SHA-256 has 64 hex digits", param_hint=option)
    return lower
