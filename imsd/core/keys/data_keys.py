"""The data keys of encrypted images: made, wrapped, and unwrapped for who works with an image.

A data key is 32 random bytes. Its wrapped form is kept before the first byte of the image is stored;
unwrapped it is in memory only, here for a short time, and in the ciphers of those who read or write the image
at the moment. It has no representation, is in no log line and in no error.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from imsd.chunks.cipher import ChunkCipher
from imsd.contract import DATA_KEY_BYTES, DataLoss, ImsError
from imsd.metadata import keys as key_rows
from imsd.metadata.database import Database
from imsd.metadata.keys import DataKeyRecord, KeyRecord

from .key_pool import KeyPool

# Data keys that are remembered at once: an image in use is asked for again when its time is over.
MAX_REMEMBERED: Final = 256


@dataclass(frozen=True, slots=True)
class _Remembered:
    """A data key that was unwrapped; ``until`` is a monotonic time."""

    data_key: bytes = field(repr=False)
    key_id: str
    until: float


class DataKeys:
    """``remember_seconds``: how long after a key was disabled its images may still be opened."""

    def __init__(
        self,
        database: Database,
        keys: KeyPool,
        clock: Callable[[], datetime],
        *,
        remember_seconds: float = 10.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._keys = keys
        self._clock = clock
        self._remember_seconds = remember_seconds
        self._monotonic = monotonic
        self._remembered: OrderedDict[str, _Remembered] = OrderedDict()
        self._forgotten = 0  # how often something was: what was asked for before is not remembered after

    async def make(self, key: KeyRecord, image_id: str) -> DataKeyRecord:
        """A new data key for an image that is yet to be, wrapped; its row is the caller's to insert.

        Raises what wrapping raises: KEY_NOT_FOUND, KEY_DISABLED, KEY_PENDING_DELETION, KEY_SERVICE_*,
        DRIVER_NOT_READY.
        """
        data_key, forgotten = os.urandom(DATA_KEY_BYTES), self._forgotten
        try:
            service = self._keys.get(key.key_service)
            # Before: what a newer version wraps meanwhile counts as older, and is only wrapped once more.
            version = (await service.describe(key.id)).version
            wrapped = await service.wrap(key.id, data_key, context_of(image_id))
        except ImsError as error:
            raise _told(error, f"the key {key.name!r} cannot encrypt", "key") from error
        self._remember(image_id, key.id, data_key, forgotten)
        now = self._clock()
        return DataKeyRecord(
            image_id=image_id,
            key_id=key.id,
            key_version=version,
            wrapped=wrapped,
            created_at=now,
            updated_at=now,
        )

    async def cipher(self, image_id: str) -> ChunkCipher:
        """What reads and writes an encrypted image, for one use of it. Raises as `unwrapped`."""
        return ChunkCipher(await self.unwrapped(image_id), image_id)

    async def unwrapped(self, image_id: str) -> bytes:
        """The data key of an image.

        Raises NotFound (KEY_NOT_FOUND), FailedPrecondition (KEY_DISABLED, KEY_PENDING_DELETION), DataLoss
        (KEY_MISMATCH), Unavailable (KEY_SERVICE_UNAVAILABLE, DRIVER_NOT_READY), PermissionDenied
        (KEY_SERVICE_DENIED).
        """
        if (found := self._remembered.get(image_id)) and self._monotonic() < found.until:
            return found.data_key
        forgotten = self._forgotten
        async with self._database.reading() as c:
            record = await key_rows.get_data_key(c, image_id)
            key = await key_rows.get_key(c, record.key_id) if record else None
        if record is None or key is None:
            raise DataLoss(
                f"there is no data key of image {image_id}: its bytes cannot be read any more",
                hint="restore the database from a backup",
            )
        try:
            service = self._keys.get(key.key_service)
            data_key = await service.unwrap(key.id, record.wrapped, context_of(image_id))
        except ImsError as error:
            raise _told(error, f"the image is encrypted under the key {key.name!r}", "image_id") from error
        self._remember(image_id, key.id, data_key, forgotten)
        return data_key

    def forget(self, key_id: str) -> None:
        """Ask the key service again for everything under a key: it was disabled, say."""
        self._forgotten += 1
        for image_id in [name for name, found in self._remembered.items() if found.key_id == key_id]:
            del self._remembered[image_id]

    def forget_old(self) -> None:
        """Let go of what is remembered for too long, though nobody asks for it."""
        now = self._monotonic()
        for image_id in [name for name, found in self._remembered.items() if found.until <= now]:
            del self._remembered[image_id]

    def _remember(self, image_id: str, key_id: str, data_key: bytes, forgotten: int) -> None:
        self.forget_old()
        if self._remember_seconds <= 0 or forgotten != self._forgotten:
            return
        self._remembered.pop(image_id, None)
        self._remembered[image_id] = _Remembered(data_key, key_id, self._monotonic() + self._remember_seconds)
        while len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)


def context_of(image_id: str) -> bytes:
    """What a wrapped data key is bound to."""
    return image_id.encode()


def _told(error: ImsError, what: str, field_name: str) -> ImsError:
    """``error`` of a key service, which knows keys by their ids only, in words of the request."""
    return type(error)(f"{what}: {error.message}", reason=error.reason, hint=error.hint, field=field_name)
