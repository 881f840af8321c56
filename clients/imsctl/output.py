"""What a command prints on standard output: a table for people, JSON or CSV for programs."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

TableOrJson = Literal["table", "json"]
TableJsonOrCsv = Literal["table", "json", "csv"]


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns side by side; a column whose name ends in ``>`` (not shown) is aligned to the right."""
    names = [name.removesuffix(">") for name in header]
    shown = [names, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in shown) for column in range(len(header))]
    for row in shown:
        cells = [
            cell.rjust(width) if name.endswith(">") else cell.ljust(width)
            for cell, width, name in zip(row, widths, header, strict=True)
        ]
        print("  ".join(cells).rstrip())


def print_fields(fields: Mapping[str, str]) -> None:
    """One field a line; empty ones are left out."""
    width = max(len(name) for name in fields)
    for name, text in fields.items():
        if text:
            print(f"{name.ljust(width)}  {printable(text)}")


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
