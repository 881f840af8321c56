"""Checking a chain of traces from its beginning to its end, as it comes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from .trace_chain import DOUBT, GENESIS, REMOVAL, REMOVED_UP_TO, Seal, SealKey, hash_of, time_of

MAX_PROBLEMS: Final = 100


@dataclass(frozen=True, slots=True)
class Link:
    """What counts of a trace. ``computed``: the hash that its content gives; ``removed_up_to``: which traces
    it says were removed, 0 for all but a `REMOVAL`; ``doubt``: what a `DOUBT` says, empty for all others.
    """

    sequence: int
    time: datetime
    previous_hash: str
    hash: str
    computed: str
    removed_up_to: int = 0
    doubt: str = ""

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Link:
        """Of a trace as it is exported. Raises ValueError for what is none."""
        sequence, previous_hash, details = fields["sequence"], fields["previous_hash"], fields["details"]
        removed_up_to = details.get(REMOVED_UP_TO, "") if fields["name"] == REMOVAL else ""
        return cls(
            sequence,
            time_of(fields["time"]),
            previous_hash,
            fields["hash"],
            hash_of(fields, previous_hash),
            int(removed_up_to) if removed_up_to.isdecimal() else 0,
            str(fields.get("message")) if fields["name"] == DOUBT else "",
        )


class ChainCheck:
    """Takes traces in order, each followed by its seal if it has one, and collects what is wrong.

    ``key`` None: seals are compared with the chain, but not proved. ``is_part``: the chain may begin
    anywhere, as an export does that begins at a time.
    """

    def __init__(self, key: SealKey | None, *, is_part: bool = False) -> None:
        self._key = key
        self._is_part = is_part
        self._at: tuple[int, str] | None = None  # sequence and hash of what was looked at last
        self._begins_after = 0
        self._removed_up_to = 0
        self._unsealed_since: datetime | None = None
        self.problem_count = 0
        self.problems: list[str] = []
        self.traces_checked = 0
        self.seals_checked = 0
        self.first_sequence = 0
        self.last_sequence = 0
        self.sealed_sequence = 0

    @property
    def is_intact(self) -> bool:
        return not self.problem_count

    def add(self, link: Link) -> None:
        """The next trace."""
        if link.computed != link.hash:
            self._say(f"trace {link.sequence} was altered: its hash is not that of its content")
        if link.doubt:
            self._say(f"trace {link.sequence} says that {link.doubt}")
        self._follow(link)
        self._removed_up_to = max(self._removed_up_to, link.removed_up_to)
        self._at = (link.sequence, link.hash)
        self._unsealed_since = self._unsealed_since or link.time
        self.traces_checked += 1
        self.first_sequence = self.first_sequence or link.sequence
        self.last_sequence = link.sequence

    def add_seal(self, seal: Seal) -> None:
        """A seal of the trace that was added last, or of the one that stood before the first."""
        self.seals_checked += 1
        if not self._is_genuine(seal):
            return
        if self._at is None:
            self._at = (seal.sequence, seal.hash)
            self._begins_after = seal.sequence
        sequence, hash = self._at
        if seal.sequence < sequence:
            self._say(f"the seal of trace {seal.sequence} stands after trace {sequence}: it was moved")
        elif seal.sequence > sequence:
            self._say(f"{_traces(sequence + 1, seal.sequence)} missing, and the last was sealed")
            self._at = (seal.sequence, seal.hash)
        elif seal.hash != hash:
            self._say(
                f"trace {sequence} is not what was sealed: it or one before it was changed,"
                " and the hashes computed anew"
            )
        else:
            self.sealed_sequence = sequence
            self._unsealed_since = None

    def add_stray(self, sequence: int) -> None:
        """A trace behind the end of the chain."""
        self._say(f"trace {sequence} stands behind the end of the chain")

    def add_doubt(self, doubt: str) -> None:
        """Of something that the chain itself does not show."""
        self._say(doubt)

    def end(self, head_sequence: int, head_hash: str) -> None:
        """The chain is over; ``head``: where its daemon went on, 0 for a chain that never began."""
        if self._begins_after > self._removed_up_to and not self._is_part:
            self._say(f"{_traces(1, self._begins_after)} missing, and no trace tells of their removal")
        sequence, hash = self._at or (0, head_hash)
        if sequence < head_sequence:
            self._say(f"{_traces(sequence + 1, head_sequence)} missing at the end")
        elif sequence > head_sequence:
            self._say(f"{_traces(head_sequence + 1, sequence)} not known to be the end of the chain")
        elif hash != head_hash:
            self._say(f"trace {sequence} is not the one that was written last")

    def require_seal(self, before: datetime) -> None:
        """Whatever is older has been sealed by a daemon that runs: if it is not, seals were removed."""
        if self._unsealed_since is not None and self._unsealed_since < before:
            self._say(
                f"trace {self.sealed_sequence + 1} and later ones bear no seal, though they are old enough"
            )

    def _follow(self, link: Link) -> None:
        if self._at is None:
            if link.sequence == 1 and link.previous_hash != GENESIS:
                self._say("trace 1 claims that another came before it")
            elif link.sequence != 1 and not self._is_part:
                self._say(f"what came before trace {link.sequence} is missing, and no seal stands for it")
            return
        sequence, hash = self._at
        if link.sequence <= sequence:
            self._say(f"trace {link.sequence} stands after trace {sequence}: it was moved or repeated")
        elif link.sequence > sequence + 1:
            self._say(f"{_traces(sequence + 1, link.sequence - 1)} missing")
        elif link.previous_hash != hash:
            self._say(f"trace {link.sequence} does not follow from trace {sequence}: one of them was changed")

    def _is_genuine(self, seal: Seal) -> bool:
        if self._key is None:
            return True
        if seal.key_id != self._key.id:
            self._say(f"the seal of trace {seal.sequence} was made with another key, {seal.key_id[:16]}")
            return False
        if not self._key.holds(seal):
            self._say(f"the seal of trace {seal.sequence} is forged")
            return False
        return True

    def _say(self, problem: str) -> None:
        self.problem_count += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)


def _traces(first: int, last: int) -> str:
    return f"trace {first} is" if first == last else f"traces {first} to {last} are"
