"""What processors a program runs on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Architecture:
    """``family``: x86, arm, or empty for another. ``bits``: 32 or 64."""

    family: str
    bits: int
