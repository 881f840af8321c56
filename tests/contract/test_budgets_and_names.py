"""How large a module and a function may be, which names say nothing, and that test files are unique."""

from __future__ import annotations

import ast
import re
from collections import Counter

from tests.contract.source_tree import ROOT, modules

MAX_MODULE_LINES = 400
MAX_TEST_MODULE_LINES = 600
MAX_FUNCTION_LINES = 60
MAX_ARGUMENTS = 6

BANNED = {"manager", "helper", "util", "common", "base", "misc", "handler", "data", "info"}
BANNED |= {f"{word}s" for word in BANNED}

EVERYWHERE = modules("imsd", "plugins", "clients", "tests")
SHIPPED = modules("imsd", "plugins", "clients")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def long_functions(tree: ast.Module) -> list[str]:
    return [
        f"{node.name}: {lines} lines"
        for node in ast.walk(tree)
        if isinstance(node, Function)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]


def functions_with_many_arguments(tree: ast.Module) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, Function):
            arguments = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            count = len([name for name in arguments if name not in ("self", "cls")])
            # A command's arguments are its options: typer reads them from the signature.
            if count > MAX_ARGUMENTS and "Annotated" not in ast.unparse(node.args):
                found.append(f"{node.name}: {count} arguments")
    return found


def noun(name: str) -> str:
    """The last word of a snake_case or CamelCase name, in lower case: what the thing is said to be."""
    words: list[str] = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)
    return words[-1].lower() if words else ""


def test_modules_are_short() -> None:
    lines = {module.place: len(module.text.splitlines()) for module in EVERYWHERE}
    limit = {
        place: MAX_TEST_MODULE_LINES if place.startswith("tests/") else MAX_MODULE_LINES for place in lines
    }
    assert [f"{place}: {lines[place]} lines" for place in lines if lines[place] > limit[place]] == []


def test_functions_are_short() -> None:
    # A migration is a frozen list of tables, and reads best as one.
    judged = [module for module in EVERYWHERE if "migrations/versions" not in module.place]
    assert [(module.place, found) for module in judged if (found := long_functions(module.tree))] == []


def test_functions_take_few_arguments() -> None:
    assert [(m.place, found) for m in SHIPPED if (found := functions_with_many_arguments(m.tree))] == []


def test_no_module_or_class_has_a_name_that_says_nothing() -> None:
    found = []
    for module in SHIPPED:
        classes = [node.name for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)]
        names = [name for name in (module.path.stem, *classes) if noun(name) in BANNED]
        found += [f"{module.place}: {name}" for name in names]
    assert found == []


def test_every_module_says_what_it_is() -> None:
    silent = [
        module.place for module in SHIPPED if not ast.get_docstring(module.tree) and module.text.strip()
    ]
    assert silent == []


def test_the_rules_can_be_broken() -> None:
    long = ast.parse("def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES)
    assert len(long_functions(long)) == 1
    assert len(functions_with_many_arguments(ast.parse("def f(a, b, c, d, e, *, f, g): ..."))) == 1
    assert {noun("StoreManager"), noun("file_utils"), noun("HTTPHandler"), noun("base")} <= BANNED
    assert not {noun("Database"), noun("DataLoss"), noun("data_windows")} & BANNED


def test_no_two_test_files_share_a_name() -> None:
    files = [path for path in (ROOT / "tests").rglob("*.py") if path.stem not in ("conftest", "__init__")]
    counts = Counter(path.name for path in files if path.name.startswith("test_"))
    assert [name for name, count in counts.items() if count > 1] == []
    assert counts


def test_nothing_is_left_to_do() -> None:
    marks = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    assert [module.place for module in EVERYWHERE if marks.search(module.text)] == []
    stub = re.compile(r"raise Not" + r"ImplementedError")
    assert [module.place for module in SHIPPED if stub.search(module.text)] == []
