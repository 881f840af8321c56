"""What a command prints on standard output: a table for people, JSON or CSV for programs."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
import textwrap
from collections.abc import Collection, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Literal

TableOrJson = Literal["table", "json"]
TableJsonOrCsv = Literal["table", "json", "csv"]

GAP = "  "
# A cell is not made narrower: what is short is a time or a size, and reads badly in two lines.
LEAST_WIDTH = 24


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns side by side; a column whose name ends in ``>`` (not shown) is aligned to the right.

    On a terminal that is too narrow, long texts are broken into lines; elsewhere a row is a line.
    """
    names = [name.removesuffix(">") for name in header]
    shown = [names, *([printable(cell) for cell in row] for row in rows)]
    columns = [[row[number] for row in shown] for number in range(len(header))]
    widths = [max(map(len, column)) for column in columns]
    if room := _terminal_width():
        narrow(widths, [least_width(column) for column in columns], room - len(GAP) * (len(widths) - 1))
    for row in shown:
        wrapped = [wrap(cell, width) for cell, width in zip(row, widths, strict=True)]
        for cells in zip_longest(*wrapped, fillvalue=""):
            aligned = [
                cell.rjust(width) if name.endswith(">") else cell.ljust(width)
                for cell, width, name in zip(cells, widths, header, strict=True)
            ]
            print(GAP.join(aligned).rstrip())


def print_fields(fields: Mapping[str, str], whole: Collection[str] = ()) -> None:
    """One field a line; empty ones are left out. Those named in ``whole`` stay one line: commands."""
    width = max(len(name) for name in fields)
    for name, text in fields.items():
        if text:
            _print_field(name.ljust(width) + GAP, printable(text), is_whole=name in whole)


def _print_field(name: str, text: str, *, is_whole: bool) -> None:
    room = _terminal_width() - len(name)
    lines = wrap(text, room) if room >= LEAST_WIDTH and not is_whole else [text]
    print(name + f"\n{' ' * len(name)}".join(lines))


def narrow(widths: list[int], least: Sequence[int], room: int) -> None:
    """Take from the widest of ``widths``, none below its ``least``, until they fit ``room`` or none can."""
    while sum(widths) > room:
        able = [number for number, width in enumerate(widths) if width > least[number]]
        if not able:
            return
        widths[max(able, key=lambda number: widths[number])] -= 1


def least_width(column: Sequence[str]) -> int:
    """What a column needs so that no word of it is broken."""
    longest = max((len(word) for cell in column for word in cell.split(" ")), default=0)
    return min(max(map(len, column)), max(longest, LEAST_WIDTH))


def wrap(text: str, width: int) -> list[str]:
    """``text`` in lines, broken between words only; as it is where it fits."""
    if len(text) <= width:
        return [text]
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def _terminal_width() -> int:
    """0 where standard output is no terminal: programs, and people who look for lines, want them whole."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def print_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """A header and a line a row; lists and mappings are written as JSON in their cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row[column]) for column in columns])
    sys.stdout.write(text.getvalue())


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else value


def printable(text: str) -> str:
    """``text`` without what would steer a terminal: names come from other people."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
