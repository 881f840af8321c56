"""SECURITY.md names a test for every published attack, and every such test is named there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.contract.source_tree import ROOT, modules

ATTACK = re.compile(r"test_(?:cve_(\d+)_(\d+)|qemu_(\d+))|cve_(\d+)_(\d+)$")


def names_of_tests() -> Iterator[str]:
    """Of all functions that are tests."""
    for module in modules("tests"):
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                yield node.name


ALL_TESTS = sorted(set(names_of_tests()))


def table() -> list[tuple[str, list[str]]]:
    """Attack and tests of each row."""
    text = (ROOT / "SECURITY.md").read_text()
    section = text.split("## Published attacks", 1)[1].split("\n## ", 1)[0]
    rows = [line.split("|")[1:4] for line in section.splitlines() if line.startswith("| ")]
    return [(attack.strip(), re.findall(r"`(\w+)`", tests)) for attack, _, tests in rows[1:]]


def test_every_attack_has_tests_that_exist() -> None:
    assert len(table()) > 25
    for attack, tests in table():
        assert tests, attack
        assert [name for name in tests if name not in ALL_TESTS] == []


def test_every_test_of_an_attack_is_in_the_table() -> None:
    named = {name for _, tests in table() for name in tests}
    of_attacks = {name for name in ALL_TESTS if ATTACK.search(name)}
    assert len(of_attacks) > 25
    assert of_attacks <= named


def test_a_test_named_after_an_attack_stands_in_the_row_of_that_attack() -> None:
    for attack, tests in table():
        for name in filter(ATTACK.search, tests):
            found = ATTACK.search(name)
            assert found
            numbers = [number for number in found.groups() if number]
            assert "-".join(numbers) in attack
