"""`AttachmentService`, as methods."""

from __future__ import annotations

from collections.abc import AsyncIterator

from imsd.v1 import attachment_pb2 as pb
from imsd.v1.attachment_pb2_grpc import AttachmentServiceStub

from .connection import Connection

PAGE_SIZE = 500


class AttachmentCalls:
    """What each call means, and how it may fail, is written in ``proto/imsd/v1/attachment.proto``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._project_id = connection.project_id
        self._stub = AttachmentServiceStub(connection.channel)

    async def attach(self, image_id: str, request_id: str = "") -> pb.Attachment:
        """Offer an image as a disk on the daemon's machine."""
        request = pb.AttachImageRequest(project_id=self._project_id, image_id=image_id, request_id=request_id)
        attachment: pb.Attachment = await self._connection.call(self._stub.AttachImage, request)
        return attachment

    async def get(self, attachment_id: str) -> pb.Attachment:
        request = pb.GetAttachmentRequest(project_id=self._project_id, attachment_id=attachment_id)
        attachment: pb.Attachment = await self._connection.call(self._stub.GetAttachment, request)
        return attachment

    async def list(self, image_id: str = "", page_size: int = PAGE_SIZE) -> AsyncIterator[pb.Attachment]:
        """All, or those of an image, the newest first, page by page."""
        request = pb.ListAttachmentsRequest(
            project_id=self._project_id, image_id=image_id, page_size=page_size
        )
        while True:
            page = await self._connection.call(self._stub.ListAttachments, request)
            for attachment in page.attachments:
                yield attachment
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def detach(self, attachment_id: str, *, force: bool = False) -> bool:
        """End it; False: as soon as the block server answers. ``force``: also if clients are connected."""
        request = pb.DetachImageRequest(project_id=self._project_id, attachment_id=attachment_id, force=force)
        response: pb.DetachImageResponse = await self._connection.call(self._stub.DetachImage, request)
        return response.is_detached
