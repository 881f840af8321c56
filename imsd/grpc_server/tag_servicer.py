"""TagService: a wire message in, one call on the core, a wire message out."""

from __future__ import annotations

from imsd.core.tags import Tags
from imsd.v1 import tag_pb2 as pb
from imsd.v1.tag_pb2_grpc import TagServiceServicer

from . import convert_tags as convert
from .context import Context
from .convert_image_change import image_ref_from_pb
from .pages import page_that_fits


class TagServicer(TagServiceServicer):
    """Serves ``imsd.v1.TagService``; what each call means is written in the .proto file."""

    def __init__(self, tags: Tags) -> None:
        self._tags = tags

    async def SetImageTags(self, request: pb.SetImageTagsRequest, _: Context) -> pb.ImageTags:
        given = [(tag.key, tag.value) for tag in request.tags]
        return convert.image_tags_to_pb(await self._tags.set(image_ref_from_pb(request), given))

    async def DeleteImageTags(self, request: pb.DeleteImageTagsRequest, _: Context) -> pb.ImageTags:
        ref = image_ref_from_pb(request)
        left = await self._tags.delete(ref, request.keys, is_lenient=request.is_lenient)
        return convert.image_tags_to_pb(left)

    async def GetImageTags(self, request: pb.GetImageTagsRequest, _: Context) -> pb.ImageTags:
        return convert.image_tags_to_pb(await self._tags.get(request.project_id, request.image_id))

    async def ListTags(self, request: pb.ListTagsRequest, _: Context) -> pb.ListTagsResponse:
        query = convert.tag_list_query_from_pb(request)

        async def page(size: int) -> pb.ListTagsResponse:
            found, token = await self._tags.list(query, size, request.page_token)
            tags = [pb.TagValues(key=key, values=values) for key, values in found]
            return pb.ListTagsResponse(tags=tags, next_page_token=token)

        return await page_that_fits(page, lambda made: made.tags, request.page_size)

    async def FindImagesByTags(
        self, request: pb.FindImagesByTagsRequest, _: Context
    ) -> pb.FindImagesByTagsResponse:
        query = convert.tag_query_from_pb(request.project_id, request.filter)

        async def page(size: int) -> pb.FindImagesByTagsResponse:
            found, count = await self._tags.find(query, size, request.offset)
            images = map(convert.tagged_image_to_pb, found)
            return pb.FindImagesByTagsResponse(images=images, total_count=count)

        return await page_that_fits(page, lambda made: made.images, request.limit)

    async def CountImagesByTags(
        self, request: pb.CountImagesByTagsRequest, _: Context
    ) -> pb.CountImagesByTagsResponse:
        query = convert.tag_query_from_pb(request.project_id, request.filter)
        return pb.CountImagesByTagsResponse(total_count=await self._tags.count(query))
