"""`imsctl driver`."""

from __future__ import annotations

from imsd.v1 import driver_pb2

from . import wording
from .command import command, group
from .json_fields import driver_fields, enum_text
from .output import print_json, print_table
from .session import Session

app = group("What the daemon has loaded.", "imsctl driver list")


@command(app, "list", example="imsctl driver list -o json")
async def list_(session: Session) -> None:
    """Show every driver and its state."""
    async with session.connect() as client:
        found = await client.drivers.list()
    if session.is_json:
        print_json([driver_fields(driver) for driver in found])
        return
    header = ("DRIVER", "KIND", "INSTANCE", "STATE", "USED>", "FREE>", "DETAIL")
    print_table(header, [_row(driver) for driver in found])


def _row(driver: driver_pb2.Driver) -> tuple[str, ...]:
    return (
        driver.name,
        enum_text(driver_pb2.DriverKind, driver.kind).replace("_", " "),
        driver.instance + (" (default)" if driver.is_default else ""),
        enum_text(driver_pb2.DriverState, driver.state),
        wording.size(driver.used_bytes) if driver.used_bytes else "",
        wording.size(driver.free_bytes) if driver.free_bytes else "",
        driver.detail or driver.summary,
    )
