"""The two requests that give an image its bytes: one makes the image, the other fills one that waits."""

from __future__ import annotations

import copy

from ims_client import ImsClient

from imsd.v1 import image_pb2, job_pb2

ImageRequest = image_pb2.CreateImageRequest | image_pb2.RegisterImageRequest


async def start_job(client: ImsClient, request: ImageRequest) -> job_pb2.Job:
    """Raises CallFailed."""
    if isinstance(request, image_pb2.RegisterImageRequest):
        return await client.images.register(request)
    return await client.images.create(request)


def of_upload(request: ImageRequest, upload_id: str, request_id: str) -> ImageRequest:
    """A copy of ``request`` for the file of an upload."""
    asked = copy.deepcopy(request)
    asked.upload_id, asked.request_id = upload_id, request_id
    return asked


def usual_request_id(request: ImageRequest, upload_id: str) -> str:
    """That of the one job for this purpose and this upload: a repeated call gets the job of the first."""
    filled = f"{request.image_id}-" if isinstance(request, image_pb2.RegisterImageRequest) else ""
    return f"imsctl-{filled}{upload_id}"
