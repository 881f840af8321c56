"""``BUCKET:OBJECT``: how a request names a file in a bucket (contract §8.4, with the errors of §13)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from imsd.contract import BLOB_ID, BlobId, InvalidRequest

BUCKET_NAME = re.compile(r"[a-z0-9\-]{1,64}\Z")
MAX_OBJECT_NAME: Final = 255

_SHAPE: Final = "write it as BUCKET:OBJECT, for example main:debian-12.qcow2"
_CHARACTERS: Final = "use letters, digits and - _ . /, and let no part between two / begin with a dot"


@dataclass(frozen=True, slots=True)
class ObjectPlace:
    """``name``: an id in the store of the bucket."""

    bucket: str
    name: BlobId

    @classmethod
    def parse(cls, field: str, text: str) -> Self:
        """Raises InvalidRequest (BUCKET_NAME_*, OBJECT_NAME_*)."""
        bucket, colon, name = text.partition(":")
        if not colon:
            raise InvalidRequest(f"{text[:80]!r} names no object in a bucket", field=field, hint=_SHAPE)
        return cls(bucket_name(field, bucket), object_name(field, name))

    def __str__(self) -> str:
        return f"{self.bucket}:{self.name}"


def bucket_name(field: str, bucket: str) -> str:
    """Raises InvalidRequest (BUCKET_NAME_EMPTY, BUCKET_NAME_INVALID)."""
    if not bucket:
        raise InvalidRequest(
            "the name of the bucket is empty", reason="BUCKET_NAME_EMPTY", field=field, hint=_SHAPE
        )
    if not BUCKET_NAME.match(bucket):
        raise InvalidRequest(
            f"{bucket[:80]!r} cannot be the name of a bucket",
            reason="BUCKET_NAME_INVALID",
            field=field,
            hint="such a name has 1 to 64 lower-case letters, digits and -",
        )
    return bucket


def object_name(field: str, name: str) -> BlobId:
    """Raises InvalidRequest (OBJECT_NAME_EMPTY, _TOO_LONG, _HAS_SPACE, _INVALID)."""
    if not name:
        raise InvalidRequest(
            "the name of the object is empty", reason="OBJECT_NAME_EMPTY", field=field, hint=_SHAPE
        )
    if len(name) > MAX_OBJECT_NAME:
        raise InvalidRequest(
            f"the name of the object has {len(name)} characters, at most {MAX_OBJECT_NAME} are allowed",
            reason="OBJECT_NAME_TOO_LONG",
            field=field,
            hint="give it a shorter name",
        )
    if " " in name:
        raise InvalidRequest(
            f"the name of the object, {name[:80]!r}, contains a space",
            reason="OBJECT_NAME_HAS_SPACE",
            field=field,
            hint=_CHARACTERS,
        )
    if not BLOB_ID.match(name):
        raise InvalidRequest(
            f"{name[:80]!r} cannot be the name of an object",
            reason="OBJECT_NAME_INVALID",
            field=field,
            hint=_CHARACTERS,
        )
    return BlobId(name)
