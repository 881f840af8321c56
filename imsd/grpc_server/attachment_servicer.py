"""AttachmentService: a wire message in, one call on the core, a wire message out."""

from __future__ import annotations

from imsd.core.attachments.attachments import Attachments, AttachmentView
from imsd.v1 import attachment_pb2 as pb
from imsd.v1.attachment_pb2_grpc import AttachmentServiceServicer

from . import convert
from .context import Context

COUNTED = (
    "clients",
    "requests",
    "read_bytes",
    "fetched_bytes",
    "cached_bytes",
    "memory_hits",
    "memory_misses",
    "errors",
)


class AttachmentServicer(AttachmentServiceServicer):
    """Serves ``imsd.v1.AttachmentService``; what each call means is written in the .proto file."""

    def __init__(self, attachments: Attachments) -> None:
        self._attachments = attachments

    async def AttachImage(self, request: pb.AttachImageRequest, _: Context) -> pb.Attachment:
        key = convert.request_key(request, request.project_id, request.request_id)
        return _to_pb(await self._attachments.attach(key, request.image_id))

    async def GetAttachment(self, request: pb.GetAttachmentRequest, _: Context) -> pb.Attachment:
        return _to_pb(await self._attachments.get(request.project_id, request.attachment_id))

    async def ListAttachments(
        self, request: pb.ListAttachmentsRequest, _: Context
    ) -> pb.ListAttachmentsResponse:
        found, token = await self._attachments.list(
            request.project_id, request.image_id, request.page_size, request.page_token
        )
        return pb.ListAttachmentsResponse(attachments=map(_to_pb, found), next_page_token=token)

    async def DetachImage(self, request: pb.DetachImageRequest, _: Context) -> pb.DetachImageResponse:
        is_detached = await self._attachments.detach(
            request.project_id, request.attachment_id, force=request.force
        )
        return pb.DetachImageResponse(is_detached=is_detached)


def _to_pb(view: AttachmentView) -> pb.Attachment:
    record = view.record
    return pb.Attachment(
        id=record.id,
        project_id=record.project_id,
        image_id=record.image_id,
        image_name=record.image_name,
        export_name=record.export_name,
        socket=view.socket,
        host=record.host,
        size_bytes=record.size_bytes,
        state=pb.AttachmentState.Value(f"ATTACHMENT_STATE_{view.state.name}"),
        detail=view.detail,
        created_at=convert.time_to_pb(record.created_at),
        **{name: int(view.status.get(name, 0)) for name in COUNTED},
    )
