"""`ImageService`, as methods."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from google.protobuf import field_mask_pb2

from imsd import wire
from imsd.v1 import guest_pb2, job_pb2
from imsd.v1 import image_pb2 as pb
from imsd.v1.image_pb2_grpc import ImageServiceStub

from .connection import Connection

PAGE_SIZE = 500


class ImageCalls:
    """What each call means, and how it may fail, is written in ``proto/imsd/v1/image.proto``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._project_id = connection.project_id
        self._stub = ImageServiceStub(connection.channel)

    async def create(self, request: pb.CreateImageRequest) -> job_pb2.Job:
        """Start the job that makes an image; the project of this client is filled in.

        With ``validate_only`` nothing is made, and the job has no id.
        """
        request.project_id = self._project_id
        job: job_pb2.Job = await self._connection.call(self._stub.CreateImage, request)
        return job

    async def register(self, request: pb.RegisterImageRequest) -> job_pb2.Job:
        """Start the job that fills an image made by `create_queued`; the project is filled in."""
        request.project_id = self._project_id
        job: job_pb2.Job = await self._connection.call(self._stub.RegisterImage, request)
        return job

    async def get(self, image_id: str) -> pb.Image:
        request = pb.GetImageRequest(project_id=self._project_id, image_id=image_id)
        image: pb.Image = await self._connection.call(self._stub.GetImage, request)
        return image

    async def resolve(self, name_or_id: str) -> pb.Image:
        """The one image that an id, a unique id prefix or a unique name stands for."""
        request = pb.ResolveImageRequest(project_id=self._project_id, name_or_id=name_or_id)
        image: pb.Image = await self._connection.call(self._stub.ResolveImage, request)
        return image

    async def list(
        self, filter: pb.ImageFilter | None = None, order_by: str = "", page_size: int = PAGE_SIZE
    ) -> AsyncIterator[pb.Image]:
        """All images that ``filter`` lets through, page by page."""
        request = pb.ListImagesRequest(
            project_id=self._project_id, page_size=page_size, filter=filter, order_by=order_by
        )
        while True:
            page = await self._connection.call(self._stub.ListImages, request)
            for image in page.images:
                yield image
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def update(self, image: pb.Image, paths: Sequence[str], etag: str = "") -> pb.Image:
        """Set the fields ``paths`` of image ``image.id`` to what ``image`` says."""
        request = pb.UpdateImageRequest(
            project_id=self._project_id,
            image_id=image.id,
            etag=etag,
            image=image,
            update_mask=field_mask_pb2.FieldMask(paths=paths),
        )
        updated: pb.Image = await self._connection.call(self._stub.UpdateImage, request)
        return updated

    async def delete(self, image_id: str, etag: str = "", *, is_final: bool = False) -> None:
        """``is_final``: without a grace time in which `undelete` brings it back."""
        request = pb.DeleteImageRequest(
            project_id=self._project_id, image_id=image_id, etag=etag, is_final=is_final
        )
        await self._connection.call(self._stub.DeleteImage, request)

    async def undelete(self, image_id: str, etag: str = "") -> pb.Image:
        request = pb.UndeleteImageRequest(project_id=self._project_id, image_id=image_id, etag=etag)
        return await self._changed(self._stub.UndeleteImage, request)

    async def deactivate(self, image_id: str, etag: str = "") -> pb.Image:
        request = pb.DeactivateImageRequest(project_id=self._project_id, image_id=image_id, etag=etag)
        return await self._changed(self._stub.DeactivateImage, request)

    async def reactivate(self, image_id: str, etag: str = "") -> pb.Image:
        request = pb.ReactivateImageRequest(project_id=self._project_id, image_id=image_id, etag=etag)
        return await self._changed(self._stub.ReactivateImage, request)

    async def deprecate(self, image_id: str, replacement_image_id: str = "") -> pb.Image:
        request = pb.DeprecateImageRequest(
            project_id=self._project_id, image_id=image_id, replacement_image_id=replacement_image_id
        )
        return await self._changed(self._stub.DeprecateImage, request)

    async def undeprecate(self, image_id: str) -> pb.Image:
        request = pb.DeprecateImageRequest(project_id=self._project_id, image_id=image_id, is_withdrawn=True)
        return await self._changed(self._stub.DeprecateImage, request)

    async def set_visibility(self, image_id: str, visibility: pb.Visibility.ValueType) -> pb.Image:
        """PUBLIC or PRIVATE: for operators."""
        request = pb.SetImageVisibilityRequest(
            project_id=self._project_id, image_id=image_id, visibility=visibility
        )
        return await self._changed(self._stub.SetImageVisibility, request)

    async def publish(self, image_id: str, product_code: str = "") -> pb.Image:
        """For operators."""
        request = pb.PublishImageRequest(
            project_id=self._project_id, image_id=image_id, product_code=product_code
        )
        return await self._changed(self._stub.PublishImage, request)

    async def unpublish(self, image_id: str) -> pb.Image:
        """For operators."""
        request = pb.PublishImageRequest(project_id=self._project_id, image_id=image_id, is_withdrawn=True)
        return await self._changed(self._stub.PublishImage, request)

    async def create_queued(self, request: pb.CreateQueuedImageRequest) -> pb.Image:
        """An image without bytes; the project of this client is filled in."""
        request.project_id = self._project_id
        return await self._changed(self._stub.CreateQueuedImage, request)

    async def resolve_family(
        self, family: str, architecture: guest_pb2.Architecture.ValueType = guest_pb2.ARCHITECTURE_UNSPECIFIED
    ) -> pb.ResolveFamilyResponse:
        """The newest image of a family that is ACTIVE and not deprecated."""
        request = pb.ResolveFamilyRequest(
            project_id=self._project_id, family=family, architecture=architecture
        )
        found: pb.ResolveFamilyResponse = await self._connection.call(self._stub.ResolveFamily, request)
        return found

    def list_file(self, *, is_public: bool = False) -> AsyncIterator[pb.ExportImageListResponse]:
        """The project's images, or the public ones, as a CSV file: its name, then its bytes."""
        requests = pb.ExportImageListRequest
        scope = requests.SCOPE_PUBLIC if is_public else requests.SCOPE_PRIVATE
        request = requests(project_id=self._project_id, scope=scope)
        return self._connection.stream(self._stub.ExportImageList, request)

    async def _changed(self, method: Any, request: Any) -> pb.Image:
        image: pb.Image = await self._connection.call(method, request)
        return image

    async def copy(self, request: pb.CopyImageRequest) -> job_pb2.Job:
        """Start the job that copies an image into the project of this client, which is filled in."""
        request.project_id = self._project_id
        job: job_pb2.Job = await self._connection.call(self._stub.CopyImage, request)
        return job

    async def verify(self, image_id: str, request_id: str = "") -> job_pb2.Job:
        """Start the job that re-reads every stored chunk of an image."""
        request = pb.VerifyImageRequest(project_id=self._project_id, image_id=image_id, request_id=request_id)
        job: job_pb2.Job = await self._connection.call(self._stub.VerifyImage, request)
        return job

    async def space(self, image_id: str) -> pb.ImageSpace:
        """What an image takes in its store, and what would go with it."""
        request = pb.GetImageSpaceRequest(project_id=self._project_id, image_id=image_id)
        found: pb.ImageSpace = await self._connection.call(self._stub.GetImageSpace, request)
        return found

    async def project_space(self) -> pb.ProjectSpace:
        """What the images of the project take in the stores together."""
        request = pb.GetProjectSpaceRequest(project_id=self._project_id)
        found: pb.ProjectSpace = await self._connection.call(self._stub.GetProjectSpace, request)
        return found

    async def move(self, request: pb.MoveImageRequest) -> job_pb2.Job:
        """Start the job that moves an image into another store; the project of this client is filled in."""
        request.project_id = self._project_id
        job: job_pb2.Job = await self._connection.call(self._stub.MoveImage, request)
        return job

    async def export(self, request: pb.ExportImageRequest) -> job_pb2.Job:
        """Start the job that writes an image into a bucket; the project of this client is filled in."""
        request.project_id = self._project_id
        job: job_pb2.Job = await self._connection.call(self._stub.ExportImage, request)
        return job

    async def inspect(self, image_id: str) -> guest_pb2.GuestReport:
        """Look inside an image's disk, now."""
        request = pb.InspectImageRequest(project_id=self._project_id, image_id=image_id)
        report: guest_pb2.GuestReport = await self._connection.call(self._stub.InspectImage, request)
        return report

    def download(
        self,
        image_id: str,
        disk_format: pb.DiskFormat.ValueType = pb.DISK_FORMAT_UNSPECIFIED,
        compression: pb.Compression.ValueType = pb.COMPRESSION_UNSPECIFIED,
    ) -> AsyncIterator[pb.DownloadImageResponse | wire.ReceivedBytes]:
        """The messages as they come; `ims_client.download` checks them and writes them to a file."""
        request = pb.DownloadImageRequest(
            project_id=self._project_id,
            image_id=image_id,
            disk_format=disk_format,
            compression=compression,
            accepts_frames=True,
        )
        call = self._connection.channel.unary_stream(
            "/imsd.v1.ImageService/DownloadImage",
            request_serializer=pb.DownloadImageRequest.SerializeToString,
            response_deserializer=wire.reader_of(pb.DownloadImageResponse),
        )
        return self._connection.stream(call, request)
