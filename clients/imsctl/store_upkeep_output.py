"""What stores take, what scrubs found and repacking did, as people and programs read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from imsd.v1 import job_pb2
from imsd.v1 import store_upkeep_pb2 as pb

from . import wording
from .json_fields import Fields
from .output import print_fields, print_json, printable
from .session import Session


def store_space_fields(space: pb.StoreSpace) -> Fields:
    return {
        "store": space.store,
        "pack_count": space.pack_count,
        "pack_bytes": space.pack_bytes,
        "live_bytes": space.live_bytes,
        "dead_bytes": space.dead_bytes,
        "uncounted_packs": space.uncounted_packs,
        "counted_at": wording.rfc3339(space.counted_at),
        "scrub": _scrub_fields(space.scrub) if space.HasField("scrub") else None,
    }


def damage_fields(damage: pb.ScrubDamage) -> Fields:
    return {
        "blob_id": damage.blob_id,
        "manifest_id": damage.manifest_id,
        "chunk_count": damage.chunk_count,
        "damaged_bytes": damage.damaged_bytes,
        "message": damage.message,
        "found_at": wording.rfc3339(damage.found_at),
        "images": [
            {"id": each.image_id, "name": each.name, "project_id": each.project_id} for each in damage.images
        ],
        "hidden_image_count": damage.hidden_image_count,
    }


def scrub_report_fields(report: job_pb2.ScrubReport) -> Fields:
    return _all_fields(report)


def repack_report_fields(report: job_pb2.RepackReport) -> Fields:
    return _all_fields(report)


def print_store_space(session: Session, space: pb.StoreSpace) -> None:
    if session.is_json:
        print_json(store_space_fields(space))
        return
    share = f" ({100 * space.dead_bytes / space.pack_bytes:.0f} %)" if space.pack_bytes else ""
    uncounted = f"; {space.uncounted_packs} packs to count" if space.uncounted_packs else ""
    print_fields(
        {
            "store": space.store,
            "packs": f"{wording.size(space.pack_bytes)} in {space.pack_count} packs",
            "live": wording.size(space.live_bytes),
            "dead": wording.size(space.dead_bytes) + share,
            "counted": (wording.local_time(space.counted_at) or "never") + uncounted,
            "last scrub": _last_scrub(space.scrub),
            "scrub under way": _unfinished_scrub(space.scrub),
        }
    )


def print_scrub(report: job_pb2.ScrubReport, damage: Sequence[pb.ScrubDamage]) -> None:
    verdict = "intact"
    if report.damaged_blobs:
        verdict = f"{report.damaged_blobs} damaged blobs, {report.affected_images} images affected"
    read = f"{wording.size(report.read_bytes)}: {report.manifests} manifests, {report.packs} packs"
    print_fields({"store": report.store, "verdict": verdict, "read": f"{read}, {report.chunks} chunks"})
    print_damage(damage)


def print_damage(damage: Sequence[pb.ScrubDamage]) -> None:
    for each in damage:
        chunks = (
            f" ({each.chunk_count} chunks, {wording.size(each.damaged_bytes)})" if each.chunk_count else ""
        )
        print(printable(f"{each.message}{chunks}"))
        for image in each.images:
            print(printable(f"  image {image.name} {image.image_id} of project {image.project_id}"))
        if each.hidden_image_count:
            print(f"  and {each.hidden_image_count} images that you may not see")
        if not each.images and not each.hidden_image_count:
            print("  no image needs it")


def print_repacking(report: job_pb2.RepackReport) -> None:
    packs = f"{wording.size(report.pack_bytes)} in {report.pack_count} packs"
    fields = {"store": report.store, "mostly dead": packs, "gets back": wording.size(report.dead_bytes)}
    if report.is_dry_run:
        fields["to write anew"] = f"{report.manifests} manifests"
    else:
        fields["copied"] = f"{wording.size(report.copied_bytes)} for {report.images} images"
    if report.skipped_manifests:
        fields["skipped"] = f"{report.skipped_manifests} damaged manifests: see `imsctl store scrub`"
    print_fields(fields)


def _scrub_fields(scrub: pb.StoreScrub) -> Fields:
    return {
        "job_id": scrub.job_id,
        "started_at": wording.rfc3339(scrub.started_at),
        "unfinished": scrub.is_unfinished,
        "report": scrub_report_fields(scrub.report),
        "last_finished_at": wording.rfc3339(scrub.last_finished_at),
        "last_report": scrub_report_fields(scrub.last_report) if scrub.HasField("last_report") else None,
    }


def _all_fields(message: Any) -> Fields:
    return {field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields}


def _last_scrub(scrub: pb.StoreScrub) -> str:
    when = wording.local_time(scrub.last_finished_at)
    if not when:
        return "never"
    report = scrub.last_report
    found = f"{report.damaged_blobs} damaged blobs, {report.affected_images} images affected"
    return f"{when}, {found if report.damaged_blobs else 'intact'}"


def _unfinished_scrub(scrub: pb.StoreScrub) -> str:
    if not scrub.is_unfinished:
        return ""
    return f"{wording.size(scrub.report.pack_bytes)} of packs are done (job {scrub.job_id})"
