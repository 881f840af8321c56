"""Images as users name them, as ids."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ims_client import ImsClient

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")


def is_id(name: str) -> bool:
    """Whether it is a whole id, not the beginning of one or a name."""
    return _ID.match(name) is not None


async def ids_of_images(client: ImsClient, names: Iterable[str]) -> dict[str, str]:
    """The id of each image, with the text that named it. A whole id stands for itself, in a list or not.

    Raises `CallFailed` for a name or a prefix that is unknown or ambiguous.
    """
    ids: dict[str, str] = {}
    for name in names:
        image_id = name if is_id(name) else (await client.images.resolve(name)).id
        ids.setdefault(image_id, name)
    return ids
