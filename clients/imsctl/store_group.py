"""`imsctl store`."""

from __future__ import annotations

from ims_client import ClientError

from imsd.v1 import driver_pb2, store_pb2

from . import store_check, store_upkeep, wording
from .command import command
from .json_fields import enum_text
from .output import print_fields, print_json, print_table
from .session import Session
from .store_app import OptionalStore, StoreArgument
from .store_app import app as app
from .store_json import store_fields, store_usage_fields

# These add their commands to the group.
ADDED = (store_check, store_upkeep)


@command(app, "list", example="imsctl store list -o json")
async def list_(session: Session) -> None:
    """Show the stores, their state and what lies in them."""
    async with session.connect() as client:
        found = await client.stores.list()
    if session.is_json:
        print_json([store_fields(store) for store in found])
        return
    header = ("STORE", "DRIVER", "STATE", "IMAGES>", "STORED>", "FREE>", "DETAIL")
    print_table(header, [_row(store) for store in found])


@command(app, "show", example="imsctl store show main")
async def show(session: Session, store: StoreArgument) -> None:
    """Show one store: what it can do, what it says of itself, what imsd keeps there."""
    async with session.connect() as client:
        stores = await client.stores.list()
    found = next((each for each in stores if each.name == store), None)
    if found is None:
        known = ", ".join(each.name for each in stores)
        raise ClientError("STORE_NOT_FOUND", f"there is no store {store!r}", f"the stores are {known}")
    if session.is_json:
        print_json(store_fields(found))
        return
    print_fields(
        {
            "store": found.name + (" (default)" if found.is_default else ""),
            "driver": found.driver,
            "state": enum_text(driver_pb2.DriverState, found.state),
            "detail": found.detail,
            "capabilities": ", ".join(found.capabilities) or "none beyond what every store has",
            "images": str(found.image_count),
            "stored": f"{wording.size(found.stored_bytes)} by imsd",
            "used": f"{_size(found.used_bytes)} by all its blobs",
            "free": _size(found.free_bytes),
        }
    )


@command(app, "usage", example=["imsctl store usage", "imsctl store usage main -o json"])
async def usage(session: Session, store: OptionalStore = "") -> None:
    """Show what imsd keeps in a store, and for which projects."""
    async with session.connect() as client:
        found = await client.stores.usage(store)
    if session.is_json:
        print_json(store_usage_fields(found))
        return
    _print_usage(found)


def _print_usage(usage: store_pb2.StoreUsage) -> None:
    condemned = f"{wording.size(usage.condemned_bytes)} in {usage.condemned_pack_count} packs"
    print_fields(
        {
            "store": usage.store,
            "images": str(usage.image_count),
            "packs": f"{wording.size(usage.pack_bytes)} in {usage.pack_count} packs",
            "to be deleted": condemned if usage.condemned_pack_count else "nothing",
            "being written": f"{usage.writing_pack_count} packs" if usage.writing_pack_count else "nothing",
            "manifests": str(usage.manifest_count),
            "uploads": f"{usage.upload_count}, {wording.size(usage.staged_bytes)} staged",
        }
    )
    if usage.projects:
        rows = [
            (each.project_id, str(each.image_count), wording.size(each.stored_bytes))
            for each in usage.projects
        ]
        print()
        print_table(("PROJECT", "IMAGES>", "STORED>"), rows)
    if usage.project_count > len(usage.projects):
        print(f"and {usage.project_count - len(usage.projects)} more projects")


def _row(store: store_pb2.Store) -> tuple[str, ...]:
    return (
        store.name + (" (default)" if store.is_default else ""),
        store.driver,
        enum_text(driver_pb2.DriverState, store.state),
        str(store.image_count),
        wording.size(store.stored_bytes),
        wording.size(store.free_bytes) if store.free_bytes else "",
        store.detail,
    )


def _size(count: int) -> str:
    """What a store tells; it may not know."""
    return wording.size(count) if count else "not told"
