"""Keys come in their order from services of both kinds: those that list texts, and those that list a tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imsd_s3.listing import Pager, in_order
from imsd_s3.objects import Entry, Page

Order = Callable[[str], Any]

ORDERS: dict[str, Order] = {"texts": lambda key: key, "tree": lambda key: key.split("/")}

NAMES = st.text("-.0a", min_size=1, max_size=3)
KEYS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


def without_folders_that_are_objects(keys: Sequence[str]) -> list[str]:
    """As ids are: never both ``a`` and ``a/b``."""
    return [key for key in keys if not any(other.startswith(f"{key}/") for other in keys)]


class Service:
    """Lists ``keys`` in its order, a few on a page; ``asked`` counts the pages."""

    def __init__(self, keys: Sequence[str], order: str, on_page: int) -> None:
        self.keys = sorted(keys, key=ORDERS[order])
        self.order = order
        self.on_page = on_page
        self.asked = 0

    async def page(self, prefix: str, after: str, more: str, delimiter: str) -> Page:
        self.asked += 1
        found: list[str] = []
        for key in self.keys:
            rest = key[len(prefix) :]
            cut = rest.find("/") if delimiter else -1
            name = prefix + rest[: cut + 1] if cut >= 0 else key
            if key.startswith(prefix) and self._comes_after(name, more or after) and name not in found:
                found.append(name)
        shown = found[: self.on_page]
        entries = [Entry(key, 1, datetime.now(UTC), "") for key in shown if not key.endswith("/")]
        folders = [name for name in shown if name.endswith("/")]
        return Page(entries, folders, shown[-1] if len(found) > len(shown) else "")

    def _comes_after(self, name: str, after: str) -> bool:
        if not after:
            return True
        order = ORDERS[self.order]
        if self.order == "tree" and not after.endswith("/") and name.startswith(f"{after}/"):
            return False  # what SeaweedFS does: a folder is left out after its own name
        return bool(order(name.rstrip("/")) > order(after.rstrip("/")))


async def keys(pager: Pager, prefix: str = "", after: str = "") -> list[str]:
    return [entry.key async for entry in in_order(pager, prefix, after)]


@pytest.mark.parametrize("order", ORDERS)
@given(found=st.lists(KEYS, unique=True, max_size=12), on_page=st.integers(1, 5), after=KEYS, prefix=NAMES)
async def test_keys_come_in_their_order_once(
    order: str, found: list[str], on_page: int, after: str, prefix: str
) -> None:
    found = without_folders_that_are_objects(found)
    service = Service(found, order, on_page)
    assert await keys(service.page) == sorted(found)
    assert await keys(service.page, after=after) == [key for key in sorted(found) if key > after]
    wanted = [key for key in sorted(found) if key.startswith(prefix)]
    assert await keys(service.page, prefix) == wanted
    assert await keys(service.page, prefix, after) == [key for key in wanted if key > after]


@pytest.mark.parametrize("order", ORDERS)
async def test_a_hundred_folders_cost_no_request_each(order: str) -> None:
    found = [f"manifests/{number:03}/content" for number in range(100)]
    service = Service(found, order, on_page=50)
    assert await keys(service.page) == found
    assert service.asked <= 2 + 4
