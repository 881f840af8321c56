"""The calls of a transit engine that are needed, each with what its noes mean."""

from __future__ import annotations

from collections.abc import Mapping

from imsd.contract import ImsError, PermissionDenied, key_mismatch, key_not_found

from .answers import Answer, error_of, unreachable
from .login import Login
from .options import TransitOptions
from .records import MALFORMED, Marker, TransitKey, parse_key, parse_names
from .server import Server
from .wrapping import pack, plain, text, unpack

# Of a key that wrapped nothing of what it is given.
MISMATCHES = ("message authentication failed", "invalid ciphertext", "too new")

# Of a version below ``min_decryption_version``, and of a key that somebody soft-deleted.
NOT_USED = ("too old", "soft-deleted")


class NotUsed(Exception):
    """The engine does not use the key, or the version of it that wrapped a data key."""


class Engine:
    """Keys by their ids. Every method may raise Unavailable (KEY_SERVICE_UNAVAILABLE), PermissionDenied
    (KEY_SERVICE_DENIED).
    """

    def __init__(self, server: Server, login: Login, options: TransitOptions) -> None:
        self._server = server
        self._login = login
        self._mount = options.mount
        self._prefix = options.key_prefix

    async def get(self, key_id: str) -> TransitKey:
        """Raises NotFound (KEY_NOT_FOUND), also for a key that somebody else made for something else."""
        answer = await self._ask("GET", f"keys/{self._prefix}{key_id}")
        if answer.status == 404:
            raise key_not_found(key_id)
        try:
            key = parse_key(key_id, _yes(answer).data)
        except MALFORMED:
            raise unreachable("what answers says something else of a key than the server") from None
        if key is None:
            raise key_not_found(key_id)
        return key

    async def names(self) -> tuple[set[str], dict[str, list[Marker]]]:
        """The ids of all keys, and the markers of each."""
        answer = await self._ask("LIST", "keys")
        if answer.status == 404:  # it has no keys
            return set(), {}
        names = _yes(answer).data.get("keys")
        return parse_names(names if isinstance(names, list) else (), self._prefix)

    async def create(self, key_id: str) -> None:
        """One that is there stays as it is."""
        body = {"type": "aes256-gcm96", "derived": True}
        _yes(await self._ask("POST", f"keys/{self._prefix}{key_id}", body))

    async def rotate(self, key_id: str, *, is_repeatable: bool) -> None:
        """``is_repeatable``: whether one version more would not matter. Raises NotFound (KEY_NOT_FOUND)."""
        path = f"keys/{self._prefix}{key_id}/rotate"
        answer = await self._ask("POST", path, {}, is_repeatable=is_repeatable)
        self._yes_or_gone(answer, key_id)

    async def configure(self, key_id: str, **settings: object) -> None:
        """Raises NotFound (KEY_NOT_FOUND)."""
        answer = await self._ask("POST", f"keys/{self._prefix}{key_id}/config", settings)
        self._yes_or_gone(answer, key_id)

    async def restore(self, key_id: str) -> None:
        """Undo a soft deletion."""
        answer = await self._ask("POST", f"keys/{self._prefix}{key_id}/soft-delete-restore", {})
        self._yes_or_gone(answer, key_id)

    async def delete(self, key_id: str) -> None:
        """For ever; one that is not there is no error."""
        await self._delete(key_id)

    async def mark(self, marker: Marker) -> None:
        _yes(await self._ask("POST", f"keys/{self._prefix}{marker.suffix}", {"type": "aes256-gcm96"}))

    async def unmark(self, marker: Marker) -> None:
        await self._delete(marker.suffix)

    async def encrypt(self, key_id: str, version: int, data_key: bytes, context: bytes) -> bytes | None:
        """The wrapped data key; None if the engine does not use the version any more, or the key."""
        body = {"plaintext": text(data_key), "context": text(context), "key_version": version}
        answer = await self._ask("POST", f"encrypt/{self._prefix}{key_id}", body)
        if answer.says("less than the minimum encryption key version", *NOT_USED):
            return None
        self._yes_or_gone(answer, key_id)
        return self._packed(answer)

    async def decrypt(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
        """Raises NotUsed, NotFound (KEY_NOT_FOUND), DataLoss (KEY_MISMATCH)."""
        body = {"ciphertext": self._unpacked(key_id, wrapped), "context": text(context)}
        answer = await self._ask("POST", f"decrypt/{self._prefix}{key_id}", body)
        self._decrypted(answer, key_id)
        try:
            return plain(answer.data.get("plaintext"))
        except ValueError as error:
            raise unreachable(f"{error}") from None

    async def rewrap(self, key_id: str, version: int, wrapped: bytes, context: bytes) -> bytes:
        """Raises what `decrypt` raises."""
        ciphertext = self._unpacked(key_id, wrapped)
        body = {"ciphertext": ciphertext, "context": text(context), "key_version": version}
        answer = await self._ask("POST", f"rewrap/{self._prefix}{key_id}", body)
        self._decrypted(answer, key_id)
        return self._packed(answer)

    async def _delete(self, name: str) -> None:
        path = f"keys/{self._prefix}{name}"
        answer = await self._ask("POST", f"{path}/config", {"deletion_allowed": True})
        if not _is_gone(answer):
            _yes(answer)
            answer = await self._ask("DELETE", path)
            if not _is_gone(answer):
                _yes(answer)

    async def _ask(
        self, method: str, path: str, body: Mapping[str, object] | None = None, *, is_repeatable: bool = True
    ) -> Answer:
        """With a token that is good; one that the server refuses is replaced once, if there is another."""
        path = f"{self._mount}/{path}"
        token = await self._login.token()
        try:
            return await self._server.ask(method, path, body, token=token, is_repeatable=is_repeatable)
        except PermissionDenied as denied:
            another = await self._login.another(token)
            if another is None:
                raise denied from None
        return await self._server.ask(method, path, body, token=another, is_repeatable=is_repeatable)

    def _yes_or_gone(self, answer: Answer, key_id: str) -> None:
        if _is_gone(answer):
            raise key_not_found(key_id)
        _yes(answer)

    def _decrypted(self, answer: Answer, key_id: str) -> None:
        if answer.says(*NOT_USED):
            raise NotUsed
        if answer.says(*MISMATCHES):
            raise key_mismatch(key_id)
        self._yes_or_gone(answer, key_id)

    def _unpacked(self, key_id: str, wrapped: bytes) -> str:
        ciphertext = unpack(wrapped)
        if ciphertext is None:
            raise key_mismatch(key_id)
        return ciphertext

    def _packed(self, answer: Answer) -> bytes:
        try:
            return pack(answer.data.get("ciphertext"))
        except ValueError as error:
            raise unreachable(f"{error}") from None


def _is_gone(answer: Answer) -> bool:
    return answer.status == 404 or answer.says("key not found", "no existing key", "not found")


def _yes(answer: Answer) -> Answer:
    if not answer.is_yes:
        error: ImsError = error_of(answer)
        raise error
    return answer
