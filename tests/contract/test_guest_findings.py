"""Findings of an inspection: every code is known, used, and documented with its severity and remedy."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from imsd.guest.child import CODECS
from imsd.guest.codes import CODES
from tests.contract.source_tree import ROOT

GUEST = ROOT / "imsd" / "guest"
# A call whose first argument is the code of a finding.
GIVING = {"finding", "add"}
_CODE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")


def calls() -> Iterator[ast.Call]:
    for path in sorted(GUEST.rglob("*.py")):
        yield from (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))


def texts_in(node: ast.AST) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value


def name_of(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def given_codes() -> set[str]:
    firsts = [call.args[0] for call in calls() if call.args and name_of(call) in GIVING]
    return {text for first in firsts for text in texts_in(first) if _CODE.fullmatch(text)}


def test_every_code_that_is_given_has_a_severity_and_a_remedy() -> None:
    assert given_codes() - set(CODES) == set()


def test_every_code_is_given_somewhere() -> None:
    text = "".join(path.read_text() for path in GUEST.glob("*.py") if path.name != "codes.py")
    assert [code for code in CODES if f'"{code}"' not in text] == []


def test_every_code_is_documented_with_its_severity_and_remedy() -> None:
    rows = [
        line.split(" | ") for line in (GUEST / "README.md").read_text().splitlines() if line.startswith("| `")
    ]
    documented = {row[0].strip("| `"): (row[1], row[3].removesuffix(" |")) for row in rows if len(row) == 4}
    assert documented == {
        code: (severity.value.replace("_", " "), remedy) for code, (severity, remedy) in CODES.items()
    }


def test_every_codec_is_loaded_before_a_process_can_open_no_file() -> None:
    converting = [call for call in calls() if name_of(call) in ("decode", "encode") and call.args]
    named = {text for call in converting for text in texts_in(call.args[0])}
    assert named
    assert named - set(CODECS) == set()
