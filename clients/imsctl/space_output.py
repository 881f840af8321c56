"""What images, projects and stores take, as people and programs read it."""

from __future__ import annotations

from imsd.v1 import image_pb2

from . import wording
from .json_fields import Fields
from .output import print_fields, print_json
from .session import Session


def image_space_fields(space: image_pb2.ImageSpace) -> Fields:
    return {
        "image_id": space.image_id,
        "store": space.store,
        "virtual_bytes": space.virtual_bytes,
        "stored_bytes": space.stored_bytes,
        "unique_bytes": space.unique_bytes,
        "shared_bytes": space.shared_bytes,
        "freed_bytes": space.freed_bytes,
        "counted_at": wording.rfc3339(space.counted_at),
        "current": space.is_current,
    }


def project_space_fields(space: image_pb2.ProjectSpace) -> Fields:
    return {
        "project_id": space.project_id,
        "image_count": space.image_count,
        "virtual_bytes": space.virtual_bytes,
        "stored_bytes": space.stored_bytes,
        "pack_bytes": space.pack_bytes,
        "unique_bytes": space.unique_bytes,
        "shared_bytes": space.shared_bytes,
    }


def print_image_space(session: Session, image: image_pb2.Image, space: image_pb2.ImageSpace) -> None:
    if session.is_json:
        print_json(image_space_fields(space))
        return
    is_counted = bool(space.counted_at.seconds)
    print_fields(
        {
            "image": f"{image.name} {image.id}",
            "store": space.store,
            "virtual": wording.size(space.virtual_bytes),
            "stored": wording.size(space.stored_bytes),
            "unique": wording.size(space.unique_bytes) if is_counted else "not counted yet",
            "shared": wording.size(space.shared_bytes) if is_counted else "not counted yet",
            "freed at once": f"{wording.size(space.freed_bytes)} when it is gone for good",
            "counted": _counted(space),
        }
    )


def print_project_space(session: Session, space: image_pb2.ProjectSpace) -> None:
    if session.is_json:
        print_json(project_space_fields(space))
        return
    print_fields(
        {
            "project": space.project_id,
            "images": str(space.image_count),
            "virtual": wording.size(space.virtual_bytes),
            "stored": f"{wording.size(space.stored_bytes)}, each image on its own",
            "packs": wording.size(space.pack_bytes),
            "unique": f"{wording.size(space.unique_bytes)} in packs of its own",
            "shared": f"{wording.size(space.shared_bytes)} in packs that other projects need too",
        }
    )


def _counted(space: image_pb2.ImageSpace) -> str:
    if space.is_current:
        return "now"
    when = wording.local_time(space.counted_at)
    return f"{when}; images have come or gone since" if when else ""
