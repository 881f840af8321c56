"""Who waits for a slot, in order of arrival."""

from __future__ import annotations


class WaitingLine:
    """Job ids in order; joining, leaving and asking for all positions are cheap for long lines."""

    def __init__(self) -> None:
        self._waiting: dict[str, None] = {}
        self._positions: dict[str, int] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._waiting

    def join(self, job_id: str) -> None:
        """At the end; whoever is in the line keeps its place."""
        self._waiting.setdefault(job_id)
        self._positions = None

    def leave(self, job_id: str) -> None:
        self._waiting.pop(job_id, None)
        self._positions = None

    def position(self, job_id: str) -> int:
        """1 for the next one; 0 for one that is not in the line. Counted once after each change."""
        if self._positions is None:
            self._positions = {each: number for number, each in enumerate(self._waiting, start=1)}
        return self._positions.get(job_id, 0)
