"""`imsd/core/CONSTRAINTS.md` has every rule of the hosted service, with its test or what it waits for."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import pytest

from imsd.core.quota_rules import RULES as QUOTAS
from imsd.core.service_limits import RULES as LIMITS
from imsd.grpc_server.error_mapping import (
    IMG_CODES,
    IMG_CODES_OF_CALLS,
    IMG_CODES_OF_FIELDS,
    IMG_CODES_OF_QUOTAS,
)
from imsd.v1.error_reason_pb2 import ErrorReason
from tests.contract.seed_rules import SEED_RULES, SeedRule
from tests.contract.source_tree import ROOT

PAGE = ROOT / "imsd" / "core" / "CONSTRAINTS.md"

# Parts of the service that are yet to be built.
PARTS = ("servers",)

# Pairs of a reason and the code of the hosted service that goes with it, in some call.
CODES = {
    *IMG_CODES.items(),
    *((reason, code) for (_, reason), code in IMG_CODES_OF_CALLS.items()),
    *(("INVALID_REQUEST", code) for code in IMG_CODES_OF_FIELDS.values()),
    *(("QUOTA_EXCEEDED", code) for code in IMG_CODES_OF_QUOTAS.values()),
}


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the page: a rule, what is done about it, and where that is tested."""

    rule: SeedRule
    refusal: str
    tests: tuple[str, ...]
    waits_for: str


def rows() -> Iterator[Row]:
    table = row = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            table = line.removeprefix("## ").partition(":")[0]
        if not line.startswith("| ") or line.startswith(("| row |", "|---")):
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert len(cells) == 4, line
        row = cells[0] or row
        waiting = re.search(r"waits for: ([\w ]+)", cells[3])
        tests = tuple(re.findall(r"`(test_\w+)`", cells[3]))
        yield Row(SeedRule(table, row, cells[1]), cells[2], tests, waiting[1] if waiting else "")


ROWS = tuple(rows())


@cache
def all_tests() -> frozenset[str]:
    """The names of all tests of the tree."""
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(node.name)
    return frozenset(found)


def test_every_rule_is_there_in_the_order_of_the_tables() -> None:
    assert [row.rule for row in ROWS] == list(SEED_RULES)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.rule.table} {row.rule.row[:40]}")
def test_every_rule_has_a_test_or_waits_for_a_part(row: Row) -> None:
    assert row.tests or row.waits_for
    assert not row.waits_for or row.waits_for in PARTS
    assert set(row.tests) <= all_tests()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.rule.table} {row.rule.row[:40]}")
def test_what_refuses_is_a_reason_with_the_code_that_goes_with_it(row: Row) -> None:
    reasons = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()}  # noqa: SIM118
    for reason, code in re.findall(r"`([A-Z_]+)`(?: \((IMG\.\d{4})\))?", row.refusal):
        assert reason in reasons
        assert not code or (reason, code) in CODES


def test_every_limit_of_a_table_names_a_row_that_is_there() -> None:
    sources = {*(limit.source for limit in LIMITS.values()), *(quota.source for quota in QUOTAS)}
    named = {source for source in sources if source.startswith("Table")}
    assert named
    for source in named:
        table, _, row = source.partition(", ")
        assert any(rule.table == table and row.lower() in rule.row.lower() for rule in SEED_RULES), source
