"""Objects in the order of their keys, whatever order the service lists them in.

S3 lists keys as texts: ``a-b`` before ``a/c``. Services that keep keys in a tree of folders (SeaweedFS) list
what is in the folder ``a`` first. There, what comes before a folder as a text comes behind it: names that go
on with a character before the slash, of which ids have ``-`` and ``.``. So when a folder is entered, its
neighbours of such names are looked for, and listed first if there are any. That costs one request for a
thousand folders, and none where all objects are in one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from .objects import Entry, Page

# Gives a page: (prefix, after, where it goes on, delimiter). Empty texts are left out.
Pager = Callable[[str, str, str, str], Awaitable[Page]]

# What ids have that comes before the slash.
EARLY: Final = ("-", ".")


async def in_order(pager: Pager, prefix: str = "", after: str = "") -> AsyncIterator[Entry]:
    """Objects whose keys begin with ``prefix`` and come after ``after``, in the order of keys.

    A key that has a character before the slash which no id has may be out of order.
    """
    if after >= prefix and not after.startswith(prefix):
        return
    after = after if after.startswith(prefix) else ""
    last, order = after, _Order(pager, prefix, after)
    async for entry in _flat(pager, prefix, after):
        for beginning in await order.before(entry.key, last):
            async for each in in_order(pager, beginning, last):
                yield each
                last = each.key
        if entry.key > last:  # else it came early
            yield entry
            last = entry.key
    for beginning in order.skipped:
        async for each in in_order(pager, beginning):
            yield each


class _Order:
    """What a service that keeps a tree lists too late, or leaves out.

    ``skipped``: folders that come after the key with which the list began, but before it in a tree.
    """

    def __init__(self, pager: Pager, prefix: str, after: str) -> None:
        self._prefix = prefix
        self._levels = _Levels(pager)
        self._open = _folders(after)
        self.skipped = _around(prefix, after)

    async def before(self, key: str, last: str) -> list[str]:
        """Beginnings of keys to list before ``key``, in order; ``last``: the one that was listed last."""
        found: list[str] = []
        while self.skipped and key > self.skipped[0]:
            folder = self.skipped.pop(0)
            if not key.startswith(folder):
                found.append(folder)
        if key > last:
            folders = _folders(key)
            for folder in folders:
                if folder not in self._open and folder[:-1].startswith(self._prefix):
                    found += await self._levels.before(folder)
            self._open = folders
        return found


async def _flat(pager: Pager, prefix: str, after: str) -> AsyncIterator[Entry]:
    more = ""
    while True:
        page = await pager(prefix, "" if more else after, more, "")
        for entry in page.entries:
            if entry.key.startswith(prefix):  # some services tidy the prefix up: "a//" is "a/"
                yield entry
        if not page.more:
            return
        more = page.more


def _folders(key: str) -> list[str]:
    """The folders that an object lies in, outermost first, each with a slash at its end."""
    return [key[: at + 1] for at, letter in enumerate(key) if letter == "/"]


def _around(prefix: str, after: str) -> list[str]:
    """Folders of which ``after`` is a neighbour that a tree lists later, or the name; in order."""
    if not after or after.endswith("/"):
        return []
    ends = [at for at in range(len(prefix), len(after)) if after[at] < "/"]
    return [f"{after[:at]}/" for at in (len(after), *reversed(ends)) if at >= len(prefix) and after[:at]]


@dataclass(slots=True)
class _Level:
    """Names in a folder, from where the list of them began."""

    names: list[str]
    is_whole: bool

    def covers(self, folder: str) -> bool:
        """Whether every neighbour that may come before ``folder`` would be among the names."""
        return self.is_whole or max((name.rstrip("/") for name in self.names), default="") > folder


class _Levels:
    """What lies beside the folders on the way to the present object."""

    def __init__(self, pager: Pager) -> None:
        self._pager = pager
        self._known: dict[str, _Level] = {}

    async def before(self, folder: str) -> list[str]:
        """Beginnings of keys that come before ``folder`` and may come behind it in a tree."""
        name = folder[:-1]
        parent = name[: name.rfind("/") + 1]
        # Folders that were left are not entered again.
        self._known = {each: level for each, level in self._known.items() if folder.startswith(each)}
        level = self._known.get(parent)
        if level is None or not level.covers(folder):
            page = await self._pager(parent, name, "", "/")
            names = [*(entry.key for entry in page.entries), *page.folders]
            level = self._known[parent] = _Level(names, not page.more)
        unsure = not level.covers(folder)
        early = [name + letter for letter in EARLY]
        return [each for each in early if unsure or any(found.startswith(each) for found in level.names)]
