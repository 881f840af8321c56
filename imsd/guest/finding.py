"""What is noticed inside a disk."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """Something noticed that does not prevent the disk's use; ``code`` is stable.

    As `imsd.formats.reader.Finding`, which would make a process that only looks load numpy.
    """

    code: str
    message: str
