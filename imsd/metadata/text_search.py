"""Looking for a part of a text, in any case of its letters, the same on every database."""

from __future__ import annotations

import re

from sqlalchemy import ColumnElement

from .tables import image

# Between the texts of an image: no name has it, so nothing is found that begins in one and ends in the next.
BETWEEN = "\x1f"


def search_text(name: str, os_version: str, platform: str) -> str:
    """What `image.search_text` has: kept, because to fold all texts took longer than to read them."""
    return BETWEEN.join(text.replace(BETWEEN, " ") for text in (name, os_version, platform)).casefold()


def is_in_texts(part: str) -> ColumnElement[bool]:
    """Whether ``part`` is in the name, the system or the platform of an image."""
    return image.c.search_text.like(f"%{_literally(part)}%", escape="\\")


def is_in_name(part: str) -> ColumnElement[bool]:
    """Whether ``part`` is in the name of an image: before both of what stands between its texts."""
    return image.c.search_text.like(f"%{_literally(part)}%{BETWEEN}%{BETWEEN}%", escape="\\")


def _literally(part: str) -> str:
    """``part`` in a pattern; none of its characters stands for others."""
    return re.sub(r"([\\%_])", r"\\\1", part.casefold())
