"""What images, projects and stores take, as messages."""

from __future__ import annotations

from imsd.core.store_upkeep.scrub_jobs import Damage
from imsd.core.store_upkeep.space import ImageSpace
from imsd.metadata.pack_space import PackedSpace, ProjectSpace
from imsd.metadata.scrubs import ScrubRecord
from imsd.v1 import image_pb2 as pb
from imsd.v1 import job_pb2
from imsd.v1 import store_upkeep_pb2 as upkeep_pb

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


def store_space_to_pb(store: str, space: PackedSpace, scrub: ScrubRecord | None) -> upkeep_pb.StoreSpace:
    return upkeep_pb.StoreSpace(
        store=store,
        pack_count=space.pack_count,
        pack_bytes=space.pack_bytes,
        live_bytes=space.live_bytes,
        dead_bytes=space.pack_bytes - space.live_bytes,
        uncounted_packs=space.due_packs,
        counted_at=time_to_pb(space.counted_at),
        scrub=_scrub_to_pb(scrub) if scrub else None,
    )


def damage_to_pb(damage: Damage) -> upkeep_pb.ScrubDamage:
    record = damage.record
    return upkeep_pb.ScrubDamage(
        blob_id=record.blob,
        manifest_id=record.manifest_id,
        chunk_count=record.chunk_count,
        damaged_bytes=record.damaged_bytes,
        message=record.message,
        found_at=time_to_pb(record.found_at),
        images=[
            upkeep_pb.AffectedImage(image_id=each.id, name=each.name, project_id=each.project_id)
            for each in damage.images
        ],
        hidden_image_count=damage.hidden_images,
    )


def _scrub_to_pb(scrub: ScrubRecord) -> upkeep_pb.StoreScrub:
    message = upkeep_pb.StoreScrub(
        job_id=scrub.job_id,
        started_at=time_to_pb(scrub.started_at),
        is_unfinished=scrub.finished_at is None,
        report=job_pb2.ScrubReport(store=scrub.store, **scrub.report),
        last_finished_at=time_to_pb(scrub.last_finished_at),
    )
    if scrub.last_finished_at:
        message.last_report.CopyFrom(job_pb2.ScrubReport(store=scrub.store, **scrub.last_report))
    return message
