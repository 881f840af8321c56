"""The bytes of a manifest: which chunks make up a disk, and where they lie.

A manifest is two blobs. *content* (guest offset, length, digest) never changes; *locations* (pack,
offset, stored length, codec, check) is rewritten when chunks move. Entry n of one belongs to entry n of the
other; both are in guest order and cut into pages of `PAGE_ENTRIES` entries that are loaded on demand::

    page 0 | page 1 | ... | pack table (locations only: 16-byte pack ids) | page table | footer

The page table has one `PAGE_RECORD` a page; the footer (`FOOTER`, the last bytes of the blob) says
where the tables are. All numbers are little-endian. Every page carries its BLAKE3 digest, the tables
are covered by the footer's, so that a reader trusts nothing it has not checked.

The content part of an *encrypted* image has another magic, and between its tables and the footer the proof
(`ChunkCipher.mac`) that who wrote the footer had the key; by the digests in it, that holds for every entry.
The locations have none: chunks move without the key, and a location that leads to anything but what was
sealed for its entry gives nothing that can be opened.
"""

from __future__ import annotations

import struct

import numpy as np

PAGE_ENTRIES = 4096

CONTENT_MAGIC = b"imsd-content-v1\0"
SEALED_CONTENT_MAGIC = b"imsd-content-e1\0"
LOCATIONS_MAGIC = b"imsd-locatio-v2\0"

CONTENT_ENTRY = np.dtype([("start", "<u8"), ("length", "<u4"), ("reserved", "<u4"), ("digest", "V32")])

# The first bytes of the BLAKE3 of what is stored.
CHECK_BYTES = 16

# ``pack`` is an index into the blob's pack table.
LOCATION_ENTRY = np.dtype(
    [
        ("pack", "<u4"),
        ("offset", "<u4"),
        ("stored_length", "<u4"),
        ("codec", "<u4"),
        ("check", f"V{CHECK_BYTES}"),
        ("first_length", "<u4"),
        ("first_stored", "<u4"),
    ]
)

# ``first_start``: guest offset of the page's first entry (0 in locations).
PAGE_RECORD = np.dtype([("first_start", "<u8"), ("entries", "<u8"), ("digest", "V32")])

# magic, entries, pages, packs, offset of the pack table, virtual size in bytes, tree digest of the disk,
# BLAKE3 over both tables.
FOOTER = struct.Struct("<16sQQQQQ32s32s")

# Of the proof, over all of the footer.
MANIFEST_LABEL = "manifest"

# Where clusters and records of the formats that take frames verbatim may end. A chunk that crosses such a
# place of its disk is stored as two frames.
FRAME_BORDER_BYTES = 2 << 20

# A chunk is at least one block and at most MAX_CHUNK_BYTES; a pack's offsets fit 32 bits.
BLOCK_BYTES = 4096
MIN_CHUNK_BYTES = 32 << 10
AVERAGE_CHUNK_BYTES = 128 << 10
MAX_CHUNK_BYTES = 512 << 10
# A piece of a disk that is kept as it came, compressed by somebody else.
MAX_RECORD_BYTES = 2 << 20
MAX_PACK_BYTES = 64 << 20
MAX_PACK_CHUNKS = 16384
