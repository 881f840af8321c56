"""ImageService: a wire message in, one call on the core, a wire message out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from imsd.core import checks
from imsd.core.downloads import Downloads
from imsd.core.guest_inspection import GuestInspection
from imsd.core.image_copies import ImageCopies
from imsd.core.image_deletion import ImageDeletion
from imsd.core.image_exports import ImageExports
from imsd.core.image_jobs import ImageJobs
from imsd.core.image_states import ImageStates
from imsd.core.image_update import ImageUpdates
from imsd.core.images import Images
from imsd.core.jobs import Jobs
from imsd.core.store_upkeep.upkeep import StoreUpkeep
from imsd.core.stores.image_moves import NewMove
from imsd.core.stores.store_services import StoreServices
from imsd.guest_messages import guest_to_pb
from imsd.v1 import guest_pb2, job_pb2
from imsd.v1 import image_pb2 as pb
from imsd.v1.image_pb2_grpc import ImageServiceServicer

from . import convert, convert_image
from .context import Context
from .convert_image_change import image_change_from_pb, image_ref_from_pb
from .convert_image_fields import image_list_to_pb, image_to_pb, visibility_from_pb
from .convert_image_query import family_query_from_pb, image_query_from_pb, is_public_list_from_pb
from .convert_space import image_space_to_pb, project_space_to_pb
from .download_stream import download_messages
from .pages import page_that_fits


class ImageCore(Protocol):
    """The parts of the core that serve images."""

    @property
    def images(self) -> Images: ...
    @property
    def image_jobs(self) -> ImageJobs: ...
    @property
    def downloads(self) -> Downloads: ...
    @property
    def jobs(self) -> Jobs: ...
    @property
    def inspection(self) -> GuestInspection: ...
    @property
    def copies(self) -> ImageCopies: ...
    @property
    def exports(self) -> ImageExports: ...
    @property
    def stores(self) -> StoreServices: ...
    @property
    def updates(self) -> ImageUpdates: ...
    @property
    def states(self) -> ImageStates: ...
    @property
    def deletion(self) -> ImageDeletion: ...
    @property
    def upkeep(self) -> StoreUpkeep: ...


class ImageServicer(ImageServiceServicer):
    """Serves ``imsd.v1.ImageService``; what each call means is written in the .proto file."""

    def __init__(self, core: ImageCore) -> None:
        self._images = core.images
        self._copies = core.copies
        self._exports = core.exports
        self._moves = core.stores.moves
        self._inspection = core.inspection
        self._image_jobs = core.image_jobs
        self._downloads = core.downloads
        self._jobs = core.jobs
        self._updates = core.updates
        self._states = core.states
        self._deletion = core.deletion
        self._space = core.upkeep.space

    async def CreateImage(self, request: pb.CreateImageRequest, _: Context) -> job_pb2.Job:
        key = convert.request_key(request, request.project_id, request.request_id)
        new = convert_image.new_image_from_pb(request)
        if request.validate_only:
            await self._image_jobs.check_new(key.project_id, new)
            return job_pb2.Job()
        job_id = await self._image_jobs.create(key, new)
        return convert.job_to_pb(await self._jobs.get(key.project_id, job_id))

    async def GetImage(self, request: pb.GetImageRequest, _: Context) -> pb.Image:
        return image_to_pb(await self._images.get(request.project_id, request.image_id))

    async def ResolveImage(self, request: pb.ResolveImageRequest, _: Context) -> pb.Image:
        return image_to_pb(await self._images.resolve(request.project_id, request.name_or_id))

    async def ListImages(self, request: pb.ListImagesRequest, _: Context) -> pb.ListImagesResponse:
        query = image_query_from_pb(request)

        async def page(size: int) -> pb.ListImagesResponse:
            images, token = await self._images.list(query, size, request.page_token)
            return image_list_to_pb(images, token)

        return await page_that_fits(page, lambda made: made.images, request.page_size)

    async def ExportImageList(
        self, request: pb.ExportImageListRequest, _: Context
    ) -> AsyncIterator[pb.ExportImageListResponse]:
        file = self._images.list_file(request.project_id, is_public=is_public_list_from_pb(request))
        yield pb.ExportImageListResponse(file_name=file.name)
        async for piece in file.pieces:
            yield pb.ExportImageListResponse(data=piece)

    async def ResolveFamily(self, request: pb.ResolveFamilyRequest, _: Context) -> pb.ResolveFamilyResponse:
        found = await self._images.resolve_family(family_query_from_pb(request))
        return pb.ResolveFamilyResponse(image_id=found.id, digest=found.digest, image=image_to_pb(found))

    async def CreateQueuedImage(self, request: pb.CreateQueuedImageRequest, _: Context) -> pb.Image:
        key = convert.request_key(request, request.project_id, request.request_id)
        return image_to_pb(await self._images.prepare(key, convert_image.prepared_image_from_pb(request)))

    async def RegisterImage(self, request: pb.RegisterImageRequest, _: Context) -> job_pb2.Job:
        key = convert.request_key(request, request.project_id, request.request_id)
        file, ref = convert_image.registered_file_from_pb(request), image_ref_from_pb(request)
        if request.validate_only:
            await self._image_jobs.check_registered(ref, file)
            return job_pb2.Job()
        job_id = await self._image_jobs.register(key, ref, file)
        return convert.job_to_pb(await self._jobs.get(key.project_id, job_id))

    async def UpdateImage(self, request: pb.UpdateImageRequest, _: Context) -> pb.Image:
        change = image_change_from_pb(request)
        return image_to_pb(await self._updates.update(image_ref_from_pb(request), change))

    async def DeleteImage(self, request: pb.DeleteImageRequest, _: Context) -> pb.DeleteImageResponse:
        await self._deletion.delete(image_ref_from_pb(request), is_final=request.is_final)
        return pb.DeleteImageResponse()

    async def CopyImage(self, request: pb.CopyImageRequest, _: Context) -> job_pb2.Job:
        key = convert.request_key(request, request.project_id, request.request_id)
        job_id = await self._copies.start(key, convert_image.new_copy_from_pb(request))
        return convert.job_to_pb(await self._jobs.get(key.project_id, job_id))

    async def MoveImage(self, request: pb.MoveImageRequest, _: Context) -> job_pb2.Job:
        key = convert.request_key(request, request.project_id, request.request_id)
        job_id = await self._moves.start(key, NewMove(image_ref_from_pb(request), request.store))
        return convert.job_to_pb(await self._jobs.get(key.project_id, job_id))

    async def ExportImage(self, request: pb.ExportImageRequest, _: Context) -> job_pb2.Job:
        key = convert.request_key(request, checks.project_id(request.project_id), request.request_id)
        job_id = await self._exports.start(key, convert_image.new_export_from_pb(request))
        return convert.job_to_pb(await self._jobs.get(key.project_id, job_id))

    async def UndeleteImage(self, request: pb.UndeleteImageRequest, _: Context) -> pb.Image:
        return image_to_pb(await self._deletion.undelete(image_ref_from_pb(request)))

    async def DeactivateImage(self, request: pb.DeactivateImageRequest, _: Context) -> pb.Image:
        return image_to_pb(await self._states.deactivate(image_ref_from_pb(request)))

    async def ReactivateImage(self, request: pb.ReactivateImageRequest, _: Context) -> pb.Image:
        return image_to_pb(await self._states.reactivate(image_ref_from_pb(request)))

    async def DeprecateImage(self, request: pb.DeprecateImageRequest, _: Context) -> pb.Image:
        ref, replacement_id = image_ref_from_pb(request), request.replacement_image_id
        if request.is_withdrawn:
            return image_to_pb(await self._states.undeprecate(ref, replacement_id))
        return image_to_pb(await self._states.deprecate(ref, replacement_id))

    async def SetImageVisibility(self, request: pb.SetImageVisibilityRequest, _: Context) -> pb.Image:
        visibility = visibility_from_pb(request.visibility)
        return image_to_pb(await self._states.set_visibility(image_ref_from_pb(request), visibility))

    async def PublishImage(self, request: pb.PublishImageRequest, _: Context) -> pb.Image:
        ref = image_ref_from_pb(request)
        if request.is_withdrawn:
            return image_to_pb(await self._states.unpublish(ref, request.product_code))
        return image_to_pb(await self._states.publish(ref, request.product_code))

    async def DownloadImage(
        self, request: pb.DownloadImageRequest, _: Context
    ) -> AsyncIterator[Any]:  # as `download_messages`, which the generated class does not foresee
        disk_format = convert.format_from_pb(request.disk_format)
        compression = convert.compression_from_pb(request.compression)
        async with self._downloads.open(
            request.project_id,
            request.image_id,
            disk_format,
            compression,
            may_frame=request.accepts_frames,
        ) as download:
            async for message in download_messages(download):
                yield message

    async def VerifyImage(self, request: pb.VerifyImageRequest, _: Context) -> job_pb2.Job:
        key = convert.request_key(request, checks.project_id(request.project_id), request.request_id)
        job_id = await self._image_jobs.earlier(key)
        if job_id is None:
            image = await self._images.get_active(request.project_id, request.image_id)
            job_id = await self._image_jobs.verify(key, image)
        return convert.job_to_pb(await self._jobs.get(key.project_id, job_id))

    async def InspectImage(self, request: pb.InspectImageRequest, _: Context) -> guest_pb2.GuestReport:
        report = await self._inspection.inspect(request.project_id, request.image_id)
        return guest_to_pb(report)

    async def GetImageSpace(self, request: pb.GetImageSpaceRequest, _: Context) -> pb.ImageSpace:
        return image_space_to_pb(await self._space.of_image(request.project_id, request.image_id))

    async def GetProjectSpace(self, request: pb.GetProjectSpaceRequest, _: Context) -> pb.ProjectSpace:
        project_id = checks.project_id(request.project_id)
        return project_space_to_pb(project_id, await self._space.of_project(project_id))
