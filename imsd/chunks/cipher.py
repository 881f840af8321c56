"""What the data key of an image does: it seals chunks, keys digests, and proves what is recorded of it.

From the data key and the binding (the image's id) one key is derived for each purpose, by BLAKE3 with a
context of its own, so nothing that was made for one purpose or one image is good for another:

* *chunks*, *kept* bytes, *parts* of an upload: AES-256-GCM. A sealed piece is a random nonce of 12 bytes, the
  ciphertext, the tag of 16. Nonces are random because an ingest that resumes has forgotten what it counted.
  Two of 2**32 pieces under one key, 512 TiB of chunks on average, share one with a chance of 2**-33.
* *digests* of chunks: BLAKE3 keyed, over the plain bytes and the place on the disk. Whoever resumes an ingest
  finds its chunks again; who has no key learns neither what a chunk holds nor that two hold the same.
* the *tree digest*: that of the plain disk, hashed with a key; written ``b3k:`` and 64 hex digits. It tells
  nothing without the key, and who has the key can compare a disk's ``b3t:`` with it.
* *proofs* of what is recorded of the image: BLAKE3 keyed.
"""

from __future__ import annotations

import hmac
import os
import struct
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from blake3 import blake3

from imsd.contract import Buffer, DataLoss

from .tree_digest import KEYED_PREFIX, parse_digest

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

DATA_KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
# By how much a sealed piece is longer than what it holds.
SEAL_BYTES = NONCE_BYTES + TAG_BYTES
MAC_BYTES = 32

# The dedup domain of an encrypted image is its own.
DOMAIN_PREFIX = "enc/"

# What a sealed chunk is bound to besides the image; see `ChunkPlace`.
_PLACE = struct.Struct("<32sQIIII")
# start on the disk
_START = struct.Struct("<Q")


class ChunkPlace(NamedTuple):
    """What a sealed chunk is good for, and nothing else: fields as in `StoredChunk`.

    By the digest, which the manifest proves, a chunk that an earlier run of the ingest put at the same
    place is told from the one that belongs there.
    """

    digest: bytes
    start: int
    length: int
    codec: int
    first_length: int
    first_stored: int


class ChunkCipher:
    """Made of a data key of 32 random bytes, and the id of the image it belongs to. Thread-safe.

    Keys are in no representation of it, and it cannot be pickled or copied.
    """

    __slots__ = ("_chunks", "_digest_key", "_kept", "_mac_key", "_parts", "_suffix", "_tree_key", "binding")

    def __init__(self, data_key: bytes, binding: str) -> None:
        """Raises ValueError."""
        # Loaded here: it takes megabytes, which a daemon without keys does without.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        if len(data_key) != DATA_KEY_BYTES:
            raise ValueError(f"a data key has {DATA_KEY_BYTES} bytes, not {len(data_key)}")
        if not binding:
            raise ValueError("a data key is bound to an image")
        self.binding = binding
        self._suffix = binding.encode()
        self._chunks = AESGCM(self._derived(data_key, "imsd chunk sealing v1"))
        self._kept = AESGCM(self._derived(data_key, "imsd kept bytes sealing v1"))
        self._parts = AESGCM(self._derived(data_key, "imsd upload part sealing v1"))
        self._digest_key = self._derived(data_key, "imsd chunk digest v1")
        self._tree_key = self._derived(data_key, "imsd keyed tree digest v1")
        self._mac_key = self._derived(data_key, "imsd proof of records v1")

    def __repr__(self) -> str:
        return f"<ChunkCipher of {self.binding}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a cipher is neither pickled nor copied")

    @property
    def domain(self) -> str:
        """Where the image's chunks are looked for, and no others."""
        return DOMAIN_PREFIX + self.binding

    # -- chunks --------------------------------------------------------------------------------------

    def chunk_digest(self, start: int, content: Buffer) -> bytes:
        """The digest of the chunk that lies at ``start`` of the disk: 32 bytes."""
        return blake3(content, key=self._digest_key).update(_START.pack(start)).digest()

    def seal_chunk(self, place: ChunkPlace, content: Buffer, nonce: bytes, sealed: memoryview) -> None:
        """Fill ``sealed``, `SEAL_BYTES` longer than ``content`` and apart from it. ``nonce``: random, new."""
        sealed[:NONCE_BYTES] = nonce
        self._chunks.encrypt_into(nonce, content, _PLACE.pack(*place) + self._suffix, sealed[NONCE_BYTES:])

    def open_chunk(self, place: ChunkPlace, sealed: memoryview, content: memoryview) -> bool:
        """Fill ``content``, `SEAL_BYTES` shorter than ``sealed``; False when it is not what was sealed."""
        return _open_into(self._chunks, _PLACE.pack(*place) + self._suffix, sealed, content)

    # -- parts of an upload: see `SealedParts` -----------------------------------------------------------

    def seal_part(self, bound: bytes, content: Buffer, sealed: memoryview) -> None:
        """Fill ``sealed``, `SEAL_BYTES` longer than ``content`` and apart from it."""
        nonce = os.urandom(NONCE_BYTES)
        sealed[:NONCE_BYTES] = nonce
        self._parts.encrypt_into(nonce, content, bound + self._suffix, sealed[NONCE_BYTES:])

    def open_part(self, bound: bytes, sealed: memoryview, content: memoryview) -> bool:
        """Fill ``content``, `SEAL_BYTES` shorter than ``sealed``; False when it is not what was sealed."""
        return _open_into(self._parts, bound + self._suffix, sealed, content)

    # -- the disk, and what is recorded of it --------------------------------------------------------------

    def tree_digest(self, plain: str) -> str:
        """What the disk with the tree digest ``plain`` (``b3t:``) is called. Raises ValueError."""
        return KEYED_PREFIX + blake3(parse_digest(plain), key=self._tree_key).hexdigest()

    def mac(self, label: str, content: Buffer) -> bytes:
        """A proof of 32 bytes that who made it had the key; good for ``label`` only."""
        name = label.encode()
        proof = blake3(len(name).to_bytes(4, "little") + name, key=self._mac_key)
        return proof.update(content).digest()

    def proves(self, label: str, content: Buffer, proof: Buffer) -> bool:
        """Whether ``proof`` is that of ``content``."""
        return hmac.compare_digest(self.mac(label, content), proof)

    def seal(self, label: str, content: Buffer) -> bytes:
        """``content`` for keeping outside the chunk store, such as the state of an ingest; see `open`."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._kept.encrypt(nonce, content, label.encode())

    def open(self, label: str, sealed: Buffer) -> bytes:
        """What was sealed with the same label. Raises DataLoss."""
        view = memoryview(sealed)
        content = bytearray(max(0, len(view) - SEAL_BYTES))
        if not _open_into(self._kept, label.encode(), view, memoryview(content)):
            raise DataLoss(
                f"what was kept of {self.binding} ({label}) was altered, or sealed with another key",
                reason="KEY_MISMATCH",
                hint="abort the upload and send it again",
            )
        return bytes(content)

    def _derived(self, data_key: bytes, purpose: str) -> bytes:
        # The key has a fixed length: no key and binding together look like another pair.
        return blake3(data_key + self._suffix, derive_key_context=purpose).digest()


def _open_into(key: AESGCM, bound: bytes, sealed: memoryview, content: memoryview) -> bool:
    from cryptography.exceptions import InvalidTag

    if len(sealed) < SEAL_BYTES:
        return False
    try:
        key.decrypt_into(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], bound, content)
    except InvalidTag:
        return False
    return True
