"""What the fake daemon remembers, and what a test wants to happen. See `fake_daemon`."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import timestamp_pb2
from google.rpc import code_pb2

from imsd.chunks.tree_digest import TreeHasher
from imsd.v1 import image_pb2, job_pb2, upload_pb2

PART_BYTES = 2 << 20
NOON = timestamp_pb2.Timestamp(seconds=1_767_268_800)  # 2026-01-01 12:00 UTC
PIECE_BYTES = (1 << 20) + 7  # of the pieces of a download


class Refusal(Exception):
    """An error as the real daemon writes it."""

    def __init__(self, code: int, reason: str, message: str, hint: str = "", field: str = "") -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.hint, self.field = code, reason, message, hint, field


def not_found(what: str) -> Refusal:
    return Refusal(code_pb2.NOT_FOUND, "NOT_FOUND", f"there is no {what}", "look at the list")


@dataclass
class FakeUpload:
    message: upload_pb2.Upload
    content: bytearray = field(default_factory=bytearray)
    fence: int = 0
    job_id: str = ""


@dataclass
class State:
    """What survives a restart, and what a test wants to happen."""

    uploads: dict[str, FakeUpload] = field(default_factory=dict)
    images: dict[str, image_pb2.Image] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    jobs: dict[str, job_pb2.Job] = field(default_factory=dict)
    requests: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    messages: list[tuple[str, int]] = field(default_factory=list)  # (data | zero, length) as received
    projects: set[str] = field(default_factory=set)
    refuse_next: dict[str, list[Refusal]] = field(default_factory=dict)
    drop_at: list[int] = field(default_factory=list)  # offsets at which a stream of an upload breaks
    drop_watch_after: list[int] = field(default_factory=list)
    cut_download_at: int | None = None
    slow_download: bool = False
    held: asyncio.Event | None = None  # a job waits for it
    asked_chunks: list[bytes] = field(default_factory=list)  # the digests; all are known
    job_failure: job_pb2.JobError | None = None
    damage: Sequence[job_pb2.Damage] = ()

    def replay(self, request_id: str, request: Any) -> str | None:
        if not request_id or request_id not in self.requests:
            return None
        known, resource = self.requests[request_id]
        if known != request.SerializeToString(deterministic=True):
            raise Refusal(code_pb2.INVALID_ARGUMENT, "REQUEST_ID_REUSED", "the request id was used")
        return resource

    def remember(self, request_id: str, request: Any, resource: str) -> None:
        if request_id:
            self.requests[request_id] = (request.SerializeToString(deterministic=True), resource)


def digest_of(content: bytes) -> str:
    hasher = TreeHasher()
    hasher.update(content)
    return hasher.digest()


def new_job(kind: job_pb2.JobKind.ValueType, image_id: str) -> job_pb2.Job:
    return job_pb2.Job(
        id=str(uuid.uuid4()),
        project_id="default",
        kind=kind,
        state=job_pb2.JOB_STATE_INIT,
        image_ids=[image_id],
        attempt=1,
        created_at=NOON,
    )
