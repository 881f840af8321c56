"""Between records and messages: pure functions, ``x_to_pb`` and ``x_from_pb``."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from imsd.contract import InvalidRequest
from imsd.core import checks
from imsd.core.jobs import JobView
from imsd.core.requests import RequestKey
from imsd.metadata.records import ImageStatus, JobKind, JobState, MemberStatus, UploadRecord, UploadState
from imsd.v1 import image_pb2, job_pb2, key_pb2, upload_pb2

from .convert_job_results import add_results
from .error_mapping import IMG_CODES


class _Enum(Protocol):
    def values(self) -> list[Any]: ...
    def Name(self, number: Any) -> str: ...  # noqa: N802  # protobuf's own name


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def time_to_pb(value: datetime | None) -> Timestamp | None:
    if value is None:
        return None
    message = Timestamp()
    set_time(message, value)
    return message


def set_time(message: Timestamp, value: datetime) -> None:
    """As `Timestamp.FromDatetime`, which takes four times as long: a page of images has many times.

    In a message that has the time already: to make one apart and copy it takes four times as long again.
    """
    since = value - _EPOCH
    message.seconds = since.days * 86_400 + since.seconds
    message.nanos = since.microseconds * 1000


def time_from_pb(message: Any, field: str) -> datetime | None:
    """The time in ``field``, None when it is not there.

    Raises InvalidRequest for what is no time that Python or a database knows.
    """
    if not message.HasField(field):
        return None
    stamp: Timestamp = getattr(message, field)
    try:
        return stamp.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest(f"{field} is no time between the years 1 and 9999", field=field) from None


def format_to_pb(name: str) -> image_pb2.DiskFormat.ValueType:
    return image_pb2.DiskFormat.Value(f"DISK_FORMAT_{name.upper()}" if name else "DISK_FORMAT_UNSPECIFIED")


def format_from_pb(value: int, field: str = "disk_format") -> str:
    """The name of a format; empty when unspecified. Raises InvalidRequest for an unknown number."""
    return _name(image_pb2.DiskFormat, "DISK_FORMAT_", value, field) if value else ""


def compression_from_pb(value: int) -> str:
    """The name of a compression; empty when unspecified. Raises InvalidRequest for an unknown number."""
    name = _name(image_pb2.Compression, "COMPRESSION_", value, "compression") if value else ""
    return name.replace("_", "-")


def compression_to_pb(name: str) -> image_pb2.Compression.ValueType:
    return image_pb2.Compression.Value(f"COMPRESSION_{name.upper().replace('-', '_')}")


def formats_from_pb(values: Collection[int], field: str) -> tuple[str, ...]:
    return _names(image_pb2.DiskFormat, "DISK_FORMAT_", values, field)


def statuses_from_pb(values: Collection[int]) -> tuple[ImageStatus, ...]:
    return tuple(map(ImageStatus, _names(image_pb2.ImageStatus, "IMAGE_STATUS_", values, "statuses")))


def job_states_from_pb(values: Collection[int]) -> tuple[JobState, ...]:
    return tuple(map(JobState, _names(job_pb2.JobState, "JOB_STATE_", values, "states")))


def job_kinds_from_pb(values: Collection[int]) -> tuple[JobKind, ...]:
    return tuple(map(JobKind, _names(job_pb2.JobKind, "JOB_KIND_", values, "kinds")))


def key_states_from_pb(values: Collection[int]) -> tuple[str, ...]:
    return _names(key_pb2.KeyState, "KEY_STATE_", values, "states")


def member_statuses_from_pb(values: Collection[int], field: str) -> tuple[MemberStatus, ...]:
    return tuple(map(MemberStatus, _names(image_pb2.MemberStatus, "MEMBER_STATUS_", values, field)))


def request_key(request: Message, project_id: str, request_id: str) -> RequestKey:
    """The idempotency key of a request: its id and a mark of everything it asks for."""
    mark = hashlib.sha256(
        request.DESCRIPTOR.full_name.encode() + b"\0" + request.SerializeToString(deterministic=True)
    )
    return RequestKey(checks.project_id(project_id), checks.request_id(request_id), mark.hexdigest())


def upload_to_pb(record: UploadRecord, part_size_bytes: int) -> upload_pb2.Upload:
    return upload_pb2.Upload(
        id=record.id,
        project_id=record.project_id,
        state=_UPLOAD_STATES[record.state],
        file_name=record.file_name,
        size_bytes=record.size_bytes,
        committed_offset=record.committed_offset,
        disk_format=format_to_pb(record.disk_format),
        part_size_bytes=part_size_bytes,
        staged_bytes=record.staged_bytes,
        expected_sha256=record.expected_sha256,
        fingerprint=record.fingerprint,
        created_at=time_to_pb(record.created_at),
        expires_at=time_to_pb(record.expires_at),
        digest=record.digest,
        is_fast=record.is_fast,
        is_encrypted=bool(record.image_id),
        store=record.store,
    )


def job_to_pb(view: JobView) -> job_pb2.Job:
    record = view.record
    message = job_pb2.Job(
        id=record.id,
        project_id=record.project_id,
        kind=job_pb2.JobKind.Value(f"JOB_KIND_{record.kind.name}"),
        state=job_pb2.JobState.Value(f"JOB_STATE_{record.state.name}"),
        progress=job_pb2.Progress(
            phase=record.phase,
            bytes_done=record.bytes_done,
            bytes_total=record.bytes_total,
            percent=record.percent,
            rate_bytes_per_second=view.rate,
            eta_seconds=view.eta_seconds,
            queue_position=view.queue_position,
        ),
        image_ids=view.image_ids,
        upload_ids=[record.upload_id] if record.upload_id else [],
        sub_job_ids=view.sub_job_ids,
        parent_job_id=record.parent_job_id,
        created_at=time_to_pb(record.created_at),
        started_at=time_to_pb(record.started_at),
        finished_at=time_to_pb(record.finished_at),
        attempt=record.attempt,
    )
    if record.error_reason:
        message.error.CopyFrom(
            job_pb2.JobError(
                reason=record.error_reason,
                message=record.error_message,
                hint=record.error_hint,
                img_code=IMG_CODES.get(record.error_reason, ""),
            )
        )
    add_results(message, record)
    return message


def listed_job_to_pb(view: JobView) -> job_pb2.Job:
    """A job without its results for members, of which there may be a thousand."""
    message = job_to_pb(view)
    message.ClearField("member_results")
    if message.HasField("store_report"):
        message.store_report.ClearField("promises")
    return message


def _name(enum: _Enum, prefix: str, value: int, field: str) -> str:
    """The lower-case name of a number of an enum. Raises InvalidRequest for 0 and unknown ones."""
    if value == 0 or value not in enum.values():
        raise InvalidRequest(f"{value} is no known value", field=field)
    return enum.Name(value).removeprefix(prefix).lower()


def _names(enum: _Enum, prefix: str, values: Collection[int], field: str) -> tuple[str, ...]:
    """The names of a set of numbers, each once and always in one order, because page tokens depend on it.

    Raises InvalidRequest, also for more numbers than there are: each would be a variable of a query.
    """
    if len(values) > len(enum.values()):
        raise InvalidRequest(
            f"{len(values)} values, but there are only {len(enum.values()) - 1}",
            field=field,
            hint="name each value once",
        )
    return tuple(_name(enum, prefix, value, field) for value in sorted(set(values)))


_UPLOAD_STATES = {
    UploadState.OPEN: upload_pb2.UPLOAD_STATE_OPEN,
    UploadState.COMMITTED: upload_pb2.UPLOAD_STATE_COMMITTED,
}


def known_name(names: Mapping[str, int], value: int, field: str) -> str:
    """The name of an enum's value; empty when unspecified."""
    if not value:
        return ""
    for name, number in names.items():
        if number == value:
            return name
    raise InvalidRequest(f"{value} is no {field.replace('_', ' ')} that is known", field=field)
