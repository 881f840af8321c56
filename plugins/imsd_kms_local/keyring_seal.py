"""How a keyring is sealed: scrypt (RFC 7914) makes a key of the passphrase, AES-256-GCM seals the text.

A sealed keyring is JSON of one line, whose fields but ``sealed`` are authenticated with it::

    {"format": "imsd-keyring-1", "kdf": {"name": "scrypt", "n": 32768, "r": 8, "p": 3, "salt": ...},
     "check": ..., "nonce": ..., "sealed": ...}

``check`` is made of the passphrase too, so that a wrong one is told from altered bytes. The parameters
are bounded, because they are used before anything is proved.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import os
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

FORMAT = "imsd-keyring-1"
SALT_BYTES = 32
NONCE_BYTES = 12
KEY_BYTES = 32
CHECK_BYTES = 16

# What an attacker who may alter the file can make us use: 128 MiB, about a second.
COSTS = (1 << 14, 1 << 15, 1 << 16, 1 << 17)
BLOCK_SIZE = 8
MAX_PARALLEL = 4


class NotSealed(Exception):
    """Bytes that are no sealed keyring, or not whole; ``str()`` says what is wrong."""


class WrongPassphrase(Exception):
    """Not the passphrase with which the keyring is sealed."""


@dataclass(frozen=True, slots=True)
class ScryptCost:
    """32 MiB and up to a second: what OWASP asks of scrypt (n 2^15, r 8, p 3)."""

    n: int = 1 << 15
    p: int = 3


COST = ScryptCost()


@dataclass(frozen=True, slots=True)
class SealKey:
    """What is made of a passphrase: kept while the keyring is open, the passphrase is not."""

    cost: ScryptCost
    salt: bytes
    key: bytes = field(repr=False)
    check: bytes

    @property
    def header(self) -> dict[str, object]:
        numbers = {"n": self.cost.n, "r": BLOCK_SIZE, "p": self.cost.p}
        kdf = {"name": "scrypt", **numbers, "salt": _text(self.salt)}
        return {"format": FORMAT, "kdf": kdf, "check": _text(self.check)}


def derive(passphrase: bytes, cost: ScryptCost | None = None, salt: bytes | None = None) -> SealKey:
    """With a new salt, unless it is given. Blocks for up to a second."""
    cost, salt = cost or COST, salt or os.urandom(SALT_BYTES)
    made = Scrypt(salt, KEY_BYTES + CHECK_BYTES, cost.n, BLOCK_SIZE, cost.p).derive(passphrase)
    return SealKey(cost, salt, made[:KEY_BYTES], made[KEY_BYTES:])


def seal(text: bytes, key: SealKey) -> bytes:
    header = {**key.header, "nonce": _text(os.urandom(NONCE_BYTES))}
    sealed = AESGCM(key.key).encrypt(_bytes(header["nonce"], NONCE_BYTES), text, _bound(header))
    return json.dumps({**header, "sealed": _text(sealed)}).encode() + b"\n"


def unseal(sealed: bytes, passphrase: bytes) -> tuple[bytes, SealKey]:
    """The text and its key. Blocks. Raises NotSealed, WrongPassphrase."""
    header = _parse(sealed)
    content = _bytes(header.pop("sealed", None))
    kdf = header.get("kdf")
    cost, salt = _cost_of(kdf), _bytes(kdf["salt"], SALT_BYTES) if isinstance(kdf, dict) else b""
    check, nonce = _bytes(header.get("check"), CHECK_BYTES), _bytes(header.get("nonce"), NONCE_BYTES)
    key = derive(passphrase, cost, salt)
    if not hmac.compare_digest(key.check, check):
        raise WrongPassphrase
    try:
        return AESGCM(key.key).decrypt(nonce, content, _bound(header)), key
    except InvalidTag:
        raise NotSealed("its bytes were altered since it was written") from None


def _parse(sealed: bytes) -> dict[str, object]:
    if not sealed.strip(b"\0"):
        raise NotSealed("it has no byte but zeros")
    try:
        header = json.loads(sealed)
    except (ValueError, RecursionError):
        raise NotSealed("it is no keyring of imsd, or not the whole of one") from None
    if not isinstance(header, dict) or not isinstance(header.get("format"), str):
        raise NotSealed("it is no keyring of imsd")
    if header["format"] != FORMAT:
        raise NotSealed(f"its format is {header['format'][:40]!r}, but this imsd knows {FORMAT!r}")
    return header


def _cost_of(kdf: object) -> ScryptCost:
    if not isinstance(kdf, dict) or kdf.get("name") != "scrypt" or "salt" not in kdf:
        raise NotSealed("it does not say how its key is made of a passphrase")
    n, r, p = kdf.get("n"), kdf.get("r"), kdf.get("p")
    if not (isinstance(n, int) and n in COSTS and r == BLOCK_SIZE):
        raise NotSealed("its key is made of a passphrase at a cost that is too low or too high")
    if not (isinstance(p, int) and 1 <= p <= MAX_PARALLEL):
        raise NotSealed("its key is made of a passphrase at a cost that is too low or too high")
    return ScryptCost(n, p)


def _bound(header: dict[str, object]) -> bytes:
    """The header, in one spelling."""
    return json.dumps(header, sort_keys=True).encode()


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _bytes(text: object, length: int | None = None) -> bytes:
    try:
        content = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        content = b""
    if not content or (length is not None and len(content) != length):
        raise NotSealed("a field of it is missing or malformed")
    return content
