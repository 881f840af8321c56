"""Numbers and times as people read them."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import unquote

from google.protobuf.timestamp_pb2 import Timestamp

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")


def size(size_bytes: float) -> str:
    """``1610612736`` as ``1.5 GiB``; below 1 KiB in bytes."""
    if size_bytes < 1024:
        return f"{size_bytes:.0f} B"
    power = 0
    while size_bytes >= 1023.5 and power < len(_UNITS):
        size_bytes /= 1024
        power += 1
    number = f"{size_bytes:.1f}" if size_bytes < 9.95 else f"{size_bytes:.0f}"
    return f"{number} {_UNITS[power - 1]}"


def duration(seconds: float) -> str:
    """``200`` as ``3 min 20 s``."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def local_time(time: Timestamp) -> str:
    """A time in the zone of this machine; nothing when ``time`` is unset."""
    if not time.seconds:
        return ""
    return datetime.fromtimestamp(time.seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def rfc3339(time: Timestamp) -> str | None:
    """A time for programs, in UTC; None when ``time`` is unset."""
    return time.ToJsonString() if time.seconds else None


def yes_no(value: bool) -> str:
    return "yes" if value else "no"


def disks(count: int) -> str:
    return "1 disk" if count == 1 else f"{count} disks"


def kept(committed_offset: int, staged_bytes: int) -> str:
    """What an upload that was broken off keeps."""
    what = "nothing of the file yet"
    if committed_offset:
        what = f"at least {size(committed_offset)} of the file"
    elif staged_bytes:
        # What is reserved for the next bytes is counted, until the daemon lets go of the file.
        what = f"up to {size(staged_bytes)} in the store, which are not stored again"
    return f"the upload is kept, with {what}"


def peer(text: str) -> str:
    """Where a call came from: ``ipv6:%5B::1%5D:4711`` as ``[::1]:4711``."""
    kind, _, place = text.partition(":")
    if kind == "unix":
        return "unix socket"
    return unquote(place) if kind in ("ipv4", "ipv6") else text


def pairs(mapping: dict[str, str]) -> str:
    """Tags or properties in one line."""
    return ", ".join(f"{key}={value}" for key, value in sorted(mapping.items()))
