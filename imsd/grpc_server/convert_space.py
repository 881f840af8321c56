"""What images, projects and stores take, as messages."""

from __future__ import annotations

from imsd.core.store_upkeep.space import ImageSpace
from imsd.metadata.pack_space import ProjectSpace
from imsd.v1 import image_pb2 as pb

from .convert import time_to_pb


def image_space_to_pb(space: ImageSpace) -> pb.ImageSpace:
    image = space.image
    return pb.ImageSpace(
        image_id=image.id,
        store=image.store,
        virtual_bytes=image.virtual_size,
        stored_bytes=image.stored_size,
        unique_bytes=space.unique_bytes,
        shared_bytes=space.shared_bytes,
        freed_bytes=space.freed_bytes,
        counted_at=time_to_pb(space.counted_at),
        is_current=space.is_current,
    )


def project_space_to_pb(project_id: str, space: ProjectSpace) -> pb.ProjectSpace:
    return pb.ProjectSpace(
        project_id=project_id,
        image_count=space.image_count,
        virtual_bytes=space.virtual_bytes,
        stored_bytes=space.stored_bytes,
        pack_bytes=space.pack_bytes,
        unique_bytes=space.pack_bytes - space.shared_bytes,
        shared_bytes=space.shared_bytes,
    )
