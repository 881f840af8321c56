"""The source files of the repository, parsed; generated code is left out."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Where packages are imported from.
SOURCE_ROOTS = (ROOT / "plugins", ROOT / "clients", ROOT)


@dataclass(frozen=True)
class Module:
    """A module by its import name, with what it says."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def place(self) -> str:
        return str(self.path.relative_to(ROOT))

    def imports(self) -> Iterator[tuple[str, int]]:
        """Every module, or name of a module, that is imported anywhere in this one, with its line."""
        package = self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((alias.name, node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


@cache
def modules(*folders: str) -> tuple[Module, ...]:
    """The modules below ``folders`` ("imsd", "plugins", "clients", "tests")."""
    found = []
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "v1" not in path.parts and "__pycache__" not in path.parts:
                text = path.read_text()
                found.append(Module(_import_name(path), path, text, ast.parse(text, str(path))))
    assert found, f"nothing found below {folders}"
    return tuple(found)


def _import_name(path: Path) -> str:
    root = next(root for root in SOURCE_ROOTS if path.is_relative_to(root))
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def documentation() -> str:
    """All Markdown of the repository as one text."""
    pages: list[Path] = []
    for folder, inner, names in os.walk(ROOT):
        # Never entered: a disk that is being built there has a /proc of its own.
        inner[:] = [each for each in inner if each not in (".venv", ".cache", "build", ".git")]
        pages += [Path(folder, name) for name in names if name.endswith(".md")]
    assert pages
    return "\n".join(path.read_text() for path in sorted(pages))
