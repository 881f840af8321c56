"""A typed asynchronous client of imsd.

Upload a disk, make an image of it, wait for it, and fetch it as a qcow2 file::

    import asyncio
    from pathlib import Path
    from ims_client import Download, UploadOptions, connect, download_to_file, open_source
    from ims_client import open_upload, send_upload
    from imsd.v1 import image_pb2

    async def main() -> None:
        async with connect() as client:
            with open_source("disk.raw") as source:
                opened = await open_upload(client, source, UploadOptions())
                upload = await send_upload(client, opened.upload, source, UploadOptions())
            request = image_pb2.CreateImageRequest(name="debian", upload_id=upload.id)
            job = await client.jobs.wait_for_job((await client.images.create(request)).id)
            download = Download(client.images, job.image_ids[0], image_pb2.DISK_FORMAT_QCOW2)
            await download_to_file(download, Path("disk.qcow2"))

    asyncio.run(main())

Every failure is a `ClientError` with a stable ``reason``, one sentence and a hint.
"""

from .address import default_address, parse_address
from .allocator import keep_large_buffers
from .backoff import PATIENCE_SECONDS, Outages, patiently
from .channel import Credentials
from .client import ImsClient, connect
from .download import Download, download_to_file, download_to_stream
from .errors import CallFailed, ClientError, JobCancelled, JobFailed, LocalFileFailed, cannot_read
from .file_output import Piece, PieceSource, write_file, write_stream
from .jobs import is_final
from .object_transfer import ObjectDownload, put_object
from .tags import tag_from_text, tag_to_text
from .upload import ByteHasher, UploadSender
from .upload_file import OpenedUpload, UploadOptions, open_upload, send_upload
from .upload_source import FileSource, StreamSource, UploadSource, open_source

__all__ = [
    "PATIENCE_SECONDS",
    "ByteHasher",
    "CallFailed",
    "ClientError",
    "Credentials",
    "Download",
    "FileSource",
    "ImsClient",
    "JobCancelled",
    "JobFailed",
    "LocalFileFailed",
    "ObjectDownload",
    "OpenedUpload",
    "Outages",
    "Piece",
    "PieceSource",
    "StreamSource",
    "UploadOptions",
    "UploadSender",
    "UploadSource",
    "cannot_read",
    "connect",
    "default_address",
    "download_to_file",
    "download_to_stream",
    "is_final",
    "keep_large_buffers",
    "open_source",
    "open_upload",
    "parse_address",
    "patiently",
    "put_object",
    "send_upload",
    "tag_from_text",
    "tag_to_text",
    "write_file",
    "write_stream",
]
