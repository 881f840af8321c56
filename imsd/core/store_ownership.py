"""Which database a store belongs to.

The sweep deletes blobs that have no row. That is right only with the database that wrote them: a daemon
started with a new, restored or other database would find no row for anything and empty the store. So a
store bears the id of its database, and a sweep that does not find it there deletes no blob without a row.
"""

from __future__ import annotations

from imsd.chunks.garbage import MANIFESTS_PREFIX, PACKS_PREFIX
from imsd.contract import AlreadyExists, BlobId, BlobStore, ByteRange, DataLoss, NotFound

OWNER_BLOB = BlobId("service-id")
_ID_BYTES = 36


async def belongs_to(store: BlobStore, service_id: str) -> bool:
    """Whether ``store`` is this service's; a store without images becomes it.

    Raises what the store raises.
    """
    try:
        owner = (await store.read(OWNER_BLOB, [ByteRange(0, _ID_BYTES)]))[0]
    except DataLoss:
        return False
    except NotFound:
        if await _has_images(store):
            return False
        return await _take(store, service_id)
    return owner == service_id.encode()


async def _has_images(store: BlobStore) -> bool:
    for prefix in (PACKS_PREFIX, MANIFESTS_PREFIX):
        async for _ in store.list(prefix):
            return True
    return False


async def _take(store: BlobStore, service_id: str) -> bool:
    try:
        async with store.begin(OWNER_BLOB) as ingest:
            await ingest.write([service_id.encode()])
            await ingest.commit()
    except AlreadyExists:
        return await belongs_to(store, service_id)
    return True
