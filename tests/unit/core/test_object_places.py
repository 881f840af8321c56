"""``BUCKET:OBJECT``, and what is wrong with a name (contract §8.4, §13)."""

from __future__ import annotations

import pytest

from imsd.contract import InvalidRequest
from imsd.core.object_place import ObjectPlace
from imsd.grpc_server.error_mapping import IMG_CODES


@pytest.mark.parametrize(
    "text", ["main:a", "main:images/Debian-12_x.qcow2", "a-1:" + "x" * 255, "b" * 64 + ":0", "m:a/b/c/d.RAW"]
)
def test_a_place_is_a_bucket_and_a_name(text: str) -> None:
    place = ObjectPlace.parse("object", text)
    assert str(place) == text
    assert f"{place.bucket}:{place.name}" == text


@pytest.mark.parametrize(
    ("text", "reason", "code"),
    [
        ("", "INVALID_REQUEST", ""),
        ("main", "INVALID_REQUEST", ""),
        (":disk.raw", "BUCKET_NAME_EMPTY", "IMG.0068"),
        ("Main:disk.raw", "BUCKET_NAME_INVALID", "IMG.0109"),
        ("ma in:disk.raw", "BUCKET_NAME_INVALID", "IMG.0109"),
        ("../x:disk.raw", "BUCKET_NAME_INVALID", "IMG.0109"),
        ("b" * 65 + ":disk.raw", "BUCKET_NAME_INVALID", "IMG.0109"),
        ("main:", "OBJECT_NAME_EMPTY", "IMG.0073"),
        ("main:" + "x" * 256, "OBJECT_NAME_TOO_LONG", "IMG.0074"),
        ("main:my disk.raw", "OBJECT_NAME_HAS_SPACE", "IMG.0175"),
        ("main:my folder/disk.raw", "OBJECT_NAME_HAS_SPACE", "IMG.0175"),
        ("main:/etc/passwd", "OBJECT_NAME_INVALID", "IMG.0075"),
        ("main:../disk.raw", "OBJECT_NAME_INVALID", "IMG.0075"),
        ("main:a/../b", "OBJECT_NAME_INVALID", "IMG.0075"),
        ("main:a//b", "OBJECT_NAME_INVALID", "IMG.0075"),
        ("main:a/", "OBJECT_NAME_INVALID", "IMG.0075"),
        ("main:.hidden", "OBJECT_NAME_INVALID", "IMG.0075"),
        ("main:a:b", "OBJECT_NAME_INVALID", "IMG.0075"),
        ("main:dïsk", "OBJECT_NAME_INVALID", "IMG.0075"),
        ("main:a\0", "OBJECT_NAME_INVALID", "IMG.0075"),
        ("main:a\n", "OBJECT_NAME_INVALID", "IMG.0075"),
        ("main:a\tb", "OBJECT_NAME_INVALID", "IMG.0075"),
    ],
)
def test_a_wrong_name_is_refused_for_what_is_wrong_with_it(text: str, reason: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        ObjectPlace.parse("object", text)
    error = refused.value
    assert (error.reason, error.field, IMG_CODES.get(error.reason, "")) == (reason, "object", code)
    assert error.hint
