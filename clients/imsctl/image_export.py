"""`imsctl image export`: an image becomes an object of a bucket."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated

import typer

from imsd.v1 import image_pb2, job_pb2

from . import choice, wording
from .json_fields import job_fields
from .output import print_fields, print_json
from .own_job import run_own_job
from .session import Session

# Suffixes of objects that say what is wanted.
FORMATS = {"qcow2": "qcow2", "vmdk": "vmdk", "vhd": "vhd", "vpc": "vhd", "zvhd": "zvhd"}
FAST_SUFFIX = "zvhd2"


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    format: Annotated[
        str, typer.Option(metavar="FORMAT", help="vmdk, vhd, qcow2 or zvhd; else by the suffix of OBJECT.")
    ] = ""
    fast: Annotated[
        bool,
        typer.Option("--fast", help="ZVHD2, made of what is stored as it is; also for images above 128 GB."),
    ] = False
    detach: Annotated[bool, typer.Option("--detach", help="Return when the job is started; print it.")] = (
        False
    )
    request_id: Annotated[
        str, typer.Option(metavar="ID", help="Start at most one job; a repeat gets the one that was started.")
    ] = ""

    def request(self, target: str) -> image_pb2.ExportImageRequest:
        """The request, but for the image. Raises typer.BadParameter."""
        suffix = PurePosixPath(target).suffix.lower().removeprefix(".")
        if self.fast and self.format:
            raise typer.BadParameter("a fast export is ZVHD2: leave out --format", param_hint="--fast")
        is_fast = self.fast or (not self.format and suffix == FAST_SUFFIX)
        name = "" if is_fast else self.format or FORMATS.get(suffix, "")
        if not is_fast and not name:
            raise typer.BadParameter(
                f"the name of {target} says no format that is exported: give --format or --fast",
                param_hint="--format",
            )
        return image_pb2.ExportImageRequest(
            # A repeated call gets the job of the first.
            request_id=self.request_id or f"imsctl-{uuid.uuid4()}",
            target=target,
            disk_format=image_pb2.DiskFormat.ValueType(choice.choose(image_pb2.DiskFormat, name, "--format")),
            is_fast=is_fast,
        )


async def export_image(session: Session, image: str, target: str, options: ExportOptions) -> None:
    """Raises typer.BadParameter."""
    request = options.request(target)
    async with session.connect() as client:
        found = await client.images.resolve(image)
        request.image_id = found.id
        job = await run_own_job(
            session, client, lambda: client.images.export(request), is_detached=options.detach
        )
        if job is None:
            return
    _print_report(session, found, job)


def _print_report(session: Session, image: image_pb2.Image, job: job_pb2.Job) -> None:
    if session.is_json:
        print_json(job_fields(job))
        return
    report = job.export_report
    print_fields(
        {
            "image": f"{image.name} {image.id}",
            "object": report.target,
            "size": wording.size(report.size_bytes),
            "sha256": report.sha256,
        }
    )
