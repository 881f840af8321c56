"""What a blob store's values and errors look like in the messages of ``imsd.testing.v1``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from imsd.contract import BlobId, ImsError, StoredBlob, Unavailable, errors

from .v1 import blob_pb2 as pb

# One write message and one piece of a read, in bytes.
PIECE_BYTES = 1 << 20

FAILURE_KEY = "imsd-failure-bin"

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

CONDITIONS = {name: found for name, found in vars(errors).items() if isinstance(found, type)}


def blob_to_pb(stored: StoredBlob) -> pb.Blob:
    microseconds = (stored.modified_at - EPOCH) // timedelta(microseconds=1)
    return pb.Blob(
        id=stored.id,
        size_bytes=stored.size_bytes,
        modified_microseconds=microseconds,
        version=stored.version,
    )


def blob_from_pb(blob: pb.Blob) -> StoredBlob:
    modified_at = EPOCH + timedelta(microseconds=blob.modified_microseconds)
    return StoredBlob(BlobId(blob.id), blob.size_bytes, modified_at, blob.version)


def failure_to_pb(error: ImsError) -> pb.Failure:
    return pb.Failure(
        condition=type(error).__name__, reason=error.reason, message=error.message, hint=error.hint
    )


def failure_from_pb(failure: pb.Failure) -> ImsError:
    """The error as it was raised; an unknown condition, of a newer server, is out of reach."""
    found = CONDITIONS.get(failure.condition, Unavailable)
    if not issubclass(found, ImsError):
        found = Unavailable
    return found(failure.message, reason=failure.reason, hint=failure.hint)
