"""What an attachment is: fields of the control protocol, checked; and kept in files, without any key."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import structlog

from imsd.contract import InvalidRequest

log = structlog.get_logger(__name__)

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_MANIFEST_ID = re.compile(r"[0-9a-f]{32}\Z")
_STORE = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_DIGEST = re.compile(r"b3[tk]:[0-9a-f]{64}\Z")
_BINDING = re.compile(r"[A-Za-z0-9_-]{0,64}\Z")

MAX_NAME_BYTES = 255
MAX_SIZE_BYTES = 1 << 60


@dataclass(frozen=True, slots=True)
class Description:
    """``binding``: of an encrypted image its id, else empty. ``size_bytes``, ``digest``: of the disk."""

    attachment_id: str
    export_name: str
    store: str
    manifest_id: str
    size_bytes: int
    digest: str
    binding: str = ""

    @property
    def is_encrypted(self) -> bool:
        return bool(self.binding)

    def is_same_disk(self, other: Description) -> bool:
        """Whether it is this one, perhaps moved."""
        return replace(self, store="", manifest_id="") == replace(other, store="", manifest_id="")


def described(values: Mapping[str, Any]) -> Description:
    """Raises InvalidRequest that names the field."""
    for field in fields(Description):
        kind = int if field.name == "size_bytes" else str
        value = values.get(field.name, "" if field.name == "binding" else None)
        if type(value) is not kind:
            raise _wrong(field.name, "is missing" if value is None else f"is no {kind.__name__}")
    found = Description(**{field.name: values.get(field.name, "") for field in fields(Description)})
    patterns = (
        ("attachment_id", _ID),
        ("store", _STORE),
        ("manifest_id", _MANIFEST_ID),
        ("digest", _DIGEST),
        ("binding", _BINDING),
    )
    for name, pattern in patterns:
        if not pattern.match(getattr(found, name)):
            raise _wrong(name, f"is {getattr(found, name)[:80]!r}: it must match {pattern.pattern}")
    if not _is_text(found.export_name):
        raise _wrong(
            "export_name", f"has more than {MAX_NAME_BYTES} bytes, or characters that are not printable"
        )
    if not 0 < found.size_bytes <= MAX_SIZE_BYTES:
        raise _wrong("size_bytes", f"is {found.size_bytes}: it must be 1 to 2**60")
    return found


def _is_text(name: str) -> bool:
    try:
        return len(name.encode()) <= MAX_NAME_BYTES and (not name or name.isprintable())
    except UnicodeEncodeError:  # half of a pair, from JSON
        return False


def _wrong(field: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"{field} {what}", field=field)


class DescriptionFiles:
    """Descriptions in ``folder``, a file each, named by the attachment. Methods block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self) -> None:
        """Raises OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def save(self, description: Description) -> None:
        """Whole or not at all, also after a power cut. Raises OSError."""
        path = self._path(description.attachment_id)
        part = path.with_suffix(".part")
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "w") as out:
            json.dump(asdict(description), out)
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, path)
        self._sync()

    def remove(self, attachment_id: str) -> None:
        """Raises OSError."""
        with suppress(FileNotFoundError):
            os.unlink(self._path(attachment_id))
        self._sync()

    def load(self) -> Iterator[Description]:
        """All; what is no description is named in the log and left. Raises OSError.

        Without a digest they are of an earlier release: they are removed, and the daemon attaches again.
        """
        for path in sorted(self._folder.glob("*.json")):
            try:
                values = json.loads(path.read_bytes())
                if isinstance(values, dict) and "digest" not in values:
                    path.unlink()
                    raise ValueError("it has no digest, and waits for the daemon to attach it again")
                found = described(values if isinstance(values, dict) else {})
                if found.attachment_id != path.stem:
                    raise ValueError("it is of another attachment")
                yield found
            except (OSError, ValueError, InvalidRequest) as error:
                log.error("a description of an attachment cannot be used", file=str(path), error=str(error))

    def _path(self, attachment_id: str) -> Path:
        return self._folder / f"{attachment_id}.json"

    def _sync(self) -> None:
        fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
