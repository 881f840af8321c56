"""Small files that hold disks of very many chunks, and how many of them one segment tells of."""

from __future__ import annotations

from imsd.chunks.segment import decode_segment
from imsd.chunks.staged_source import staging_blob
from imsd.contract import ByteRange
from imsd.core.runtime import Runtime
from imsd.metadata import uploads as upload_rows
from tests.unit.core.core_world import STORE
from tests.unit.formats import crafted_vdi, crafted_zvhd
from tests.unit.formats.disk_files import MIB

# A block that may end a chunk, found by trying: a disk of them is all chunks of 32 KiB.
ENDING = (20).to_bytes(8, "little") + b"\x11" * 4088
DISK = ENDING * (64 * MIB // len(ENDING))
CHUNKS = len(DISK) // (32 << 10)
LIMIT = 128
# What the steps of an ingest that run add after the limit was reached.
UNDER_WAY = 640


def a_vdi() -> bytes:
    """Every block of the disk is the one block of the file."""
    count = len(DISK) // MIB
    fields = crafted_vdi.Fields(size=len(DISK), blocks=count)
    return crafted_vdi.crafted([0] * count, DISK[:MIB], fields)


def a_zvhd() -> bytes:
    blocks = dict.fromkeys(range(len(DISK) // crafted_zvhd.BLOCK), DISK[: crafted_zvhd.BLOCK])
    return crafted_zvhd.zvhd_of(
        blocks, crafted_zvhd.Fields(cookie=b"stream\0\0", format_version=0, size=len(DISK))
    )


async def chunks_told(runtime: Runtime, upload: str) -> list[int]:
    """Of each segment of an upload, how many chunks it tells of."""
    async with runtime.database.reading() as c:
        parts = await upload_rows.upload_parts(c, upload)
    store, counts = runtime.stores.get(STORE), []
    for part in parts:
        blob = await store.stat(staging_blob(upload, part.number))
        (content,) = await store.read(blob.id, [ByteRange(0, blob.size_bytes)])
        counts.append(len(decode_segment(bytes(content)).content))
    return counts
