"""A data key, wrapped by a version of a key.

One byte (1: this layout), four of the version, twelve of the nonce, then AES-256-GCM of the data key and its
tag; bound are the layout, the version, the key and the context. 65 bytes in all.
"""

from __future__ import annotations

import os
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from imsd.contract import DATA_KEY_BYTES, key_mismatch

from .keyring import StoredKey

HEADER = struct.Struct(">BI")
LAYOUT = 1
NONCE_BYTES = 12
TAG_BYTES = 16
WRAPPED_BYTES = HEADER.size + NONCE_BYTES + DATA_KEY_BYTES + TAG_BYTES


def wrap(key: StoredKey, data_key: bytes, context: bytes) -> bytes:
    """By the newest version, with a random nonce: below 2^32 of them a version never repeats one."""
    header = HEADER.pack(LAYOUT, len(key.versions))
    nonce = os.urandom(NONCE_BYTES)
    return header + nonce + AESGCM(key.versions[-1]).encrypt(nonce, data_key, _bound(header, key, context))


def unwrap(key: StoredKey, wrapped: bytes, context: bytes) -> bytes:
    """Raises DataLoss (KEY_MISMATCH)."""
    if len(wrapped) != WRAPPED_BYTES:
        raise key_mismatch(key.id)
    header, nonce = wrapped[: HEADER.size], wrapped[HEADER.size :][:NONCE_BYTES]
    layout, version = HEADER.unpack(header)
    if layout != LAYOUT or not 1 <= version <= len(key.versions):
        raise key_mismatch(key.id)
    sealed = wrapped[HEADER.size + NONCE_BYTES :]
    try:
        return AESGCM(key.versions[version - 1]).decrypt(nonce, sealed, _bound(header, key, context))
    except InvalidTag:
        raise key_mismatch(key.id) from None


def _bound(header: bytes, key: StoredKey, context: bytes) -> bytes:
    """No two of them alike: an id has no zero byte."""
    return header + key.id.encode() + b"\0" + context
