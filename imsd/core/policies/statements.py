"""A file of policies, cut into its statements, so that what is wrong with one can be told with its line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# A text, a comment, the end of a statement, anything else. A text that is not closed goes on to the end.
_PIECE = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|//[^\n]*|;|[^\s"/;]+|/', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Statement:
    """One policy as it was written; ``line``: where it begins, from 1."""

    text: str
    line: int


def split_statements(text: str) -> Iterator[Statement]:
    """Every statement of ``text``. A rest without a semicolon is one too: it will not parse."""
    begin = end = -1
    for piece in _PIECE.finditer(text):
        if piece[0].startswith("//"):
            continue
        if begin < 0:
            begin = piece.start()
        end = piece.end()
        if piece[0] == ";":
            yield _statement(text, begin, end)
            begin = -1
    if begin >= 0:
        yield _statement(text, begin, end)


def _statement(text: str, begin: int, end: int) -> Statement:
    return Statement(text[begin:end], text.count("\n", 0, begin) + 1)
