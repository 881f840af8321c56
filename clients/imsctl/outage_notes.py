"""Telling of a daemon that does not answer while something is under way."""

from __future__ import annotations

from dataclasses import replace

from ims_client import CallFailed, ImsClient

from .progress import ProgressRow, ProgressView, Snapshot


class OutageNotes(ProgressRow):
    """A row of ``view`` that shows no rate while the daemon of ``client`` is away, and says that it is.

    The newest one of a client is told.
    """

    def __init__(self, client: ImsClient, view: ProgressView) -> None:
        self._address = client.address
        self._view = view
        self._row = view.row()
        self._newest: Snapshot | None = None
        client.outages.on_begin = self._begin
        client.outages.on_end = self._end

    def show(self, snapshot: Snapshot) -> None:
        self._newest = snapshot
        self._row.show(snapshot)

    def _begin(self, error: CallFailed, patience_seconds: float) -> None:
        what = error.message
        if error.reason == "DAEMON_UNREACHABLE":
            what = f"the daemon does not answer ({self._address})"
        self._view.note(f"{what}, trying again for up to {patience_seconds:.0f} s")
        if self._newest is not None:
            waiting = replace(self._newest, rate=0.0, eta_seconds=0.0, note="waiting for the daemon")
            self._row.show(waiting)

    def _end(self) -> None:
        self._view.note("connected again")
