"""What `--output json` prints of an attachment."""

from __future__ import annotations

from imsd.v1 import attachment_pb2

from . import wording
from .json_fields import Fields, enum_text


def uri_of(attachment: attachment_pb2.Attachment) -> str:
    """As qemu, libnbd and nbdkit read it; empty without a socket."""
    # The path has no character that a URI would have to escape but for what an operator called a directory.
    from urllib.parse import quote

    return f"nbd+unix:///?socket={quote(attachment.socket)}" if attachment.socket else ""


def attachment_fields(attachment: attachment_pb2.Attachment) -> Fields:
    return {
        "id": attachment.id,
        "image_id": attachment.image_id,
        "image_name": attachment.image_name,
        "socket": attachment.socket,
        "uri": uri_of(attachment),
        "export_name": attachment.export_name,
        "host": attachment.host,
        "size": attachment.size_bytes,
        "state": enum_text(attachment_pb2.AttachmentState, attachment.state),
        "detail": attachment.detail,
        "clients": attachment.clients,
        "requests": attachment.requests,
        "read_bytes": attachment.read_bytes,
        "fetched_bytes": attachment.fetched_bytes,
        "cached_bytes": attachment.cached_bytes,
        "memory_hits": attachment.memory_hits,
        "memory_misses": attachment.memory_misses,
        "errors": attachment.errors,
        "project_id": attachment.project_id,
        "created_at": wording.rfc3339(attachment.created_at),
    }
