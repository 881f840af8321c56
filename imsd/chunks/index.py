"""What the chunk store asks of its index: which chunks and packs exist, and who holds them.

`imsd.metadata` fulfils `ChunkIndex`; every method is one transaction. The rules that keep bytes alive:

* A pack's row (`writing`) precedes its first byte; `commit_pack` makes it `live` and its chunks findable.
* Every pack that anything needs has a reference: by the job or upload that writes or found it, later by
  the manifest that lists it. A *dedup hit is a hint*: `find` returns a chunk only from a pack that is
  `live`, and inserts the caller's reference in the same transaction.
* Manifests are held by images, jobs, readers and attachments. A manifest without holder is condemned, and
  with it go its references to packs; a pack without reference is condemned, and with it go its index rows,
  all in one transaction, and only then the bytes.
* A holder with a fence (a job's run, an upload's writer) is checked in the same transaction: a zombie
  gets `Conflict` and changes nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NamedTuple

from imsd.contract import BlobId


class Codec(IntEnum):
    """How a chunk lies in its pack."""

    RAW = 0  # its plain bytes: compressing did not shrink them
    ZSTD = 1  # one or two zstd frames with content size and checksum
    RECORD = 2  # zstd frames as they came, any number, each with its content size
    # The same, sealed by a `ChunkCipher`.
    SEALED_RAW = 4
    SEALED_ZSTD = 5
    SEALED_RECORD = 6


# The bit of a codec that says that it is sealed.
SEALED = 4


class HolderKind(StrEnum):
    JOB = "job"
    UPLOAD = "upload"
    MANIFEST = "manifest"
    IMAGE = "image"
    READER = "reader"
    ATTACHMENT = "attachment"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who needs a pack or a manifest. ``fence`` is checked for jobs and uploads."""

    kind: HolderKind
    id: str
    fence: int = 0


class Location(NamedTuple):
    """Where a chunk lies: ``stored_length`` bytes at ``offset`` of a pack, ``length`` bytes when plain.

    ``check``: the first 16 bytes of the BLAKE3 of the stored bytes, by which a reader knows them.
    ``first_length`` and ``first_stored``: plain and stored bytes of the first of its two frames; 0 when
    there are not two.
    """

    pack_id: str  # 32 hex digits, random, never reused
    offset: int
    stored_length: int
    length: int
    codec: Codec
    check: bytes
    first_length: int = 0
    first_stored: int = 0


class IndexedChunk(NamedTuple):
    """A chunk of a pack that is being committed. ``digest``: that of its `ChunkEntry`."""

    digest: bytes
    location: Location


class PackUse(NamedTuple):
    """How much of a pack is needed, in bytes: by any manifest, and by one alone, by manifest."""

    pack_id: str
    live_bytes: int
    unique_bytes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Doomed:
    """A pack or manifest whose row is condemned and whose bytes may go."""

    id: str
    store: str


def pack_blob(pack_id: str) -> BlobId:
    """The blob of a pack. Two digits of fan-out keep directories small."""
    return BlobId(f"packs/{pack_id[:2]}/{pack_id}")


def content_blob(manifest_id: str) -> BlobId:
    return BlobId(f"manifests/{manifest_id}/content")


def locations_blob(manifest_id: str, generation: int = 0) -> BlobId:
    """Locations are rewritten by repacking; each rewriting has a generation of its own."""
    return BlobId(f"manifests/{manifest_id}/locations-{generation}")


class ChunkIndex(ABC):
    # -- writing -----------------------------------------------------------------------------------

    @abstractmethod
    async def begin_pack(self, holder: Holder, pack_id: str, store: str) -> None:
        """Insert the row (`writing`) with a reference by ``holder``. Raises Conflict (stale fence)."""

    @abstractmethod
    async def commit_pack(
        self, holder: Holder, domain: str, pack_id: str, size_bytes: int, chunks: Sequence[IndexedChunk]
    ) -> None:
        """Make a written, durable pack `live` and its chunks findable in ``domain`` of the pack's store.

        A digest that is known there already keeps its old location. Raises Conflict.
        """

    @abstractmethod
    async def find(
        self, holder: Holder, store: str, domain: str, digests: Sequence[bytes]
    ) -> Mapping[bytes, Location]:
        """The known ones of ``digests`` (at most 4,096), from live packs of this store and domain only.

        ``holder`` references every pack that is returned. Raises Conflict.
        """

    @abstractmethod
    async def begin_manifest(self, holder: Holder, manifest_id: str, store: str) -> None:
        """Insert a manifest row (`writing`) held by ``holder``. Raises Conflict."""

    @abstractmethod
    async def hold_packs_of(self, holder: Holder, manifest_id: str) -> None:
        """Let ``holder`` reference every pack of a live manifest, too. Raises NotFound, Conflict."""

    @abstractmethod
    async def distrust(self, packs: Iterable[str]) -> None:
        """Let no look-up find a chunk in these packs any more: damaged ones, or such as are to go."""

    # -- letting go and sweeping ---------------------------------------------------------------------

    @abstractmethod
    async def release(self, holder: Holder) -> None:
        """Drop every reference and hold of ``holder``, whatever its fence. No error if it has none."""

    @abstractmethod
    async def condemn(self, store: str, limit: int = 1000) -> tuple[Sequence[Doomed], Sequence[Doomed]]:
        """Condemn manifests without holder, then packs without reference, of one store.

        Returns (manifests, packs) that are condemned, those of an interrupted sweep included.
        """

    @abstractmethod
    async def forget(self, manifests: Iterable[str], packs: Iterable[str]) -> None:
        """Delete the rows of condemned things whose bytes are gone."""

    @abstractmethod
    async def known(self, manifests: Sequence[str], packs: Sequence[str]) -> tuple[set[str], set[str]]:
        """Which of these ids have a row, in any state: the sweep deletes blobs that have none."""

    # -- reading -------------------------------------------------------------------------------------

    @abstractmethod
    async def hold_manifest(self, holder: Holder, manifest_id: str) -> str:
        """Keep a live manifest for a reader; returns its store. Raises NotFound."""
