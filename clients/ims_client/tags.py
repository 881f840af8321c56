"""`TagService`, as methods; and tags as texts, as gateways of the hosted service's calls write them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from imsd.v1 import image_pb2
from imsd.v1 import tag_pb2 as pb
from imsd.v1.tag_pb2_grpc import TagServiceStub

from .connection import Connection

PAGE_SIZE = 500


class TagCalls:
    """What each call means, and how it may fail, is written in ``proto/imsd/v1/tag.proto``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._project_id = connection.project_id
        self._stub = TagServiceStub(connection.channel)

    async def set(self, image_id: str, tags: Mapping[str, str], etag: str = "") -> pb.ImageTags:
        """Add tags, and replace those whose keys are there."""
        request = pb.SetImageTagsRequest(
            project_id=self._project_id,
            image_id=image_id,
            tags=[pb.Tag(key=key, value=value) for key, value in tags.items()],
            etag=etag,
        )
        found: pb.ImageTags = await self._connection.call(self._stub.SetImageTags, request)
        return found

    async def delete(
        self, image_id: str, keys: Sequence[str], etag: str = "", *, is_lenient: bool = False
    ) -> pb.ImageTags:
        """Take tags off; ``is_lenient``: those that are not there are no error."""
        request = pb.DeleteImageTagsRequest(
            project_id=self._project_id, image_id=image_id, keys=keys, is_lenient=is_lenient, etag=etag
        )
        left: pb.ImageTags = await self._connection.call(self._stub.DeleteImageTags, request)
        return left

    async def get(self, image_id: str) -> pb.ImageTags:
        request = pb.GetImageTagsRequest(project_id=self._project_id, image_id=image_id)
        found: pb.ImageTags = await self._connection.call(self._stub.GetImageTags, request)
        return found

    async def list(
        self, filter: image_pb2.ImageFilter | None = None, page_size: int = PAGE_SIZE
    ) -> AsyncIterator[pb.TagValues]:
        """Every key that images of the project bear, with its values, page by page."""
        request = pb.ListTagsRequest(project_id=self._project_id, page_size=page_size, filter=filter)
        while True:
            page = await self._connection.call(self._stub.ListTags, request)
            for tag in page.tags:
                yield tag
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def find(
        self, filter: pb.TagFilter | None = None, limit: int = 0, offset: int = 0
    ) -> pb.FindImagesByTagsResponse:
        """Images by their tags, newest first, and how many there are in all."""
        request = pb.FindImagesByTagsRequest(
            project_id=self._project_id, filter=filter, limit=limit, offset=offset
        )
        found: pb.FindImagesByTagsResponse = await self._connection.call(self._stub.FindImagesByTags, request)
        return found

    async def count(self, filter: pb.TagFilter | None = None) -> int:
        request = pb.CountImagesByTagsRequest(project_id=self._project_id, filter=filter)
        counted = await self._connection.call(self._stub.CountImagesByTags, request)
        return int(counted.total_count)


def tag_from_text(text: str) -> tuple[str, str]:
    """Key and value of ``key.value``, split at the first dot (contract §3.12); without a dot, all is key."""
    key, _, value = text.partition(".")
    return key, value


def tag_to_text(key: str, value: str, separator: str = ".") -> str:
    """``key.value``, or with another ``separator``, as in the list of an image's tags, ``key=value``."""
    return f"{key}{separator}{value}" if value else key
