"""`ImageService`, as methods."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

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
        """Start the job that makes an image; the project of this client is filled in."""
        request.project_id = self._project_id
        job: job_pb2.Job = await self._connection.call(self._stub.CreateImage, request)
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

    async def delete(self, image_id: str, etag: str = "") -> None:
        request = pb.DeleteImageRequest(project_id=self._project_id, image_id=image_id, etag=etag)
        await self._connection.call(self._stub.DeleteImage, request)

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
