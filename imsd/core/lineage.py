"""Where the disk of an image came from, and what it inherits from the image it was made of.

What an image descends from decides what may be done with it (seed, Table 5-5; contract §9.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from imsd.metadata.records import ImageRecord, OriginKind, Visibility

from .sources import Source, SourceKind


def origin_of(source: Source | None, file_name: str) -> tuple[OriginKind, str]:
    """The kind and the text of the origin of a file: of ``source``, or of an upload named ``file_name``."""
    if source is None:
        return OriginKind.UPLOAD, file_name
    value = without_secrets(source.value) if source.kind is SourceKind.URL else source.value
    return OriginKind(source.kind.value), value


def without_secrets(url: str) -> str:
    """A URL without user name, query and fragment: any of them may hold a password or a signature."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return ""
    return parts._replace(netloc=host, query="", fragment="").geturl()


def lineage_of(image: ImageRecord) -> Mapping[str, object]:
    """What an image that is made of ``image`` says of its descent: columns of its own."""
    is_public = image.visibility is Visibility.PUBLIC
    return {
        "origin_image_id": image.id,
        "origin_kind": OriginKind.IMAGE,
        "origin": image.id,
        "public_platform": image.platform or "Other" if is_public else image.public_platform,
        "is_market_derived": image.is_market_derived or image.is_published,
    }


def late_marks(made: ImageRecord, image: ImageRecord) -> Mapping[str, object]:
    """What ``made`` must say of its descent besides, because of what became of ``image`` since the request.

    Marks are only added: what was made of a public image stays marked.
    """
    marks = lineage_of(image)
    names = ("public_platform", "is_market_derived")
    return {name: marks[name] for name in names if marks[name] and not getattr(made, name)}
