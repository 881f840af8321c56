"""A wrapped data key as bytes: one (1: this layout), four of the version, then what the engine made of it.

The engine gives a text, ``vault:v3:<base64>``, which has many spellings; these bytes have one. 65 in all.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct

from imsd.contract import DATA_KEY_BYTES

HEADER = struct.Struct(">BI")
LAYOUT = 1

# Nonce, ciphertext and tag of AES-256-GCM.
SEALED_BYTES = 12 + DATA_KEY_BYTES + 16

CIPHERTEXT = re.compile(r"vault:v([1-9]\d{0,8}):([A-Za-z0-9+/]+=*)\Z")


def pack(ciphertext: object) -> bytes:
    """Raises ValueError for what is no ciphertext of a data key."""
    found = CIPHERTEXT.match(ciphertext) if isinstance(ciphertext, str) else None
    sealed = _decoded(found[2]) if found else b""
    if found is None or len(sealed) != SEALED_BYTES:
        raise ValueError("the answer has no ciphertext of a data key")
    return HEADER.pack(LAYOUT, int(found[1])) + sealed


def unpack(wrapped: bytes) -> str | None:
    """The ciphertext for the engine; None for bytes that `pack` never made."""
    if len(wrapped) != HEADER.size + SEALED_BYTES:
        return None
    layout, version = HEADER.unpack(wrapped[: HEADER.size])
    if layout != LAYOUT or not 1 <= version < 1_000_000_000:
        return None
    return f"vault:v{version}:{base64.b64encode(wrapped[HEADER.size :]).decode()}"


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def plain(answered: object) -> bytes:
    """The data key of an answer. Raises ValueError, which has no byte of it."""
    data_key = _decoded(answered) if isinstance(answered, str) else b""
    if len(data_key) != DATA_KEY_BYTES:
        raise ValueError("the answer has no data key")
    return data_key


def _decoded(encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return b""
