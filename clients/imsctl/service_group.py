"""`imsctl service`."""

from __future__ import annotations

from . import wording
from .command import command, group
from .json_fields import service_fields
from .output import print_fields, print_json
from .session import Session

app = group("The daemon itself.", "imsctl service info")


@command(app, "info", example="imsctl service info")
async def info(session: Session) -> None:
    """Show version, region and limits of the daemon."""
    async with session.connect() as client:
        found = await client.catalog.service_info()
        address = client.address
    if session.is_json:
        print_json(service_fields(found))
        return
    print_fields(
        {
            "address": address,
            "version": found.version,
            "region": found.region,
            "default store": found.default_store,
            "largest disk": wording.size(found.max_virtual_size_bytes),
            "largest upload": wording.size(found.max_upload_size_bytes),
            "upload part": wording.size(found.upload_part_size_bytes),
            "create jobs at once": str(found.max_running_create_jobs),
        }
    )
