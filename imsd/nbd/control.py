"""The control socket: messages of the daemon, a line of JSON each. README.md is the page of its protocol."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import socket
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import structlog

from imsd.chunks.cipher import ChunkCipher
from imsd.contract import FailedPrecondition, ImsError, InvalidRequest

from .access_trace import are_entries
from .attachment import Attachment
from .attachments import Attachments
from .description import Description, described
from .listening import Listening

log = structlog.get_logger(__name__)

PROTOCOL_VERSION = 2
MAX_LINE_BYTES = 64 << 10
MAX_CONNECTIONS = 32
SOCKET_MODE = 0o600

MAX_ID_CHARACTERS = 64
MAX_PAGE = 100
MAX_ENTRIES = 2000

Answer = dict[str, Any]

_DESCRIPTION = tuple(field.name for field in fields(Description))

# The fields that each operation takes.
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "hello": (),
    "attach": (*_DESCRIPTION, "data_key"),
    "detach": ("attachment_id", "force"),
    "list": ("after", "page_size"),
    "status": ("attachment_id",),
    "trace": ("attachment_id", "first"),
    "set_trace": ("attachment_id", "entries", "append"),
}


class Control:
    """Answers messages about ``attachments``; ``release``: of the program, ``state_dir``: its own."""

    def __init__(self, attachments: Attachments, release: str, state_dir: str = "") -> None:
        self._attachments = attachments
        self._release = release
        self._state_dir = state_dir
        self._instance = uuid.uuid4().hex
        self._listening: Listening | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._operations: Mapping[str, Callable[[Mapping[str, Any]], Awaitable[Answer]]] = {
            "hello": self._hello,
            "attach": self._attach,
            "detach": self._detach,
            "list": self._list,
            "status": self._status,
            "trace": self._trace,
            "set_trace": self._set_trace,
        }

    def listen(self, path: Path) -> None:
        """Raises OSError."""
        self._listening = Listening(path, SOCKET_MODE, -1, self._accepted)

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.close()
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    def _accepted(self, connected: socket.socket) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            connected.close()
            return
        task = asyncio.ensure_future(self._serve(connected))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=connected, limit=MAX_LINE_BYTES)
        try:
            while line := await reader.readline():
                answer, goes_on = await self._answered(line)
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
                if not goes_on:
                    return
        except ValueError:  # the line is too long
            writer.write(json.dumps(_failed(_too_long())).encode() + b"\n")
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _answered(self, line: bytes) -> tuple[Answer, bool]:
        """The answer, and whether the connection goes on."""
        try:
            message = json.loads(line)
            if not isinstance(message, dict):
                raise ValueError("no object")
        except (ValueError, RecursionError):
            return _failed(InvalidRequest("a message is one JSON object in a line")), False
        number = message.pop("id", None)
        try:
            if number is not None and not (isinstance(number, str) and len(number) <= MAX_ID_CHARACTERS):
                number = None
                raise InvalidRequest(f"id is a text of up to {MAX_ID_CHARACTERS} characters", field="id")
            answer = {"ok": True} | await self._operate(message)
        except ImsError as error:
            answer = _failed(error)
        except Exception:
            # Without the message: it may hold a key.
            log.exception("a message could not be answered", op=str(message.get("op"))[:40])
            answer = _failed(ImsError("the block server has a defect: see its log"))
        return answer | ({"id": number} if number is not None else {}), True

    async def _operate(self, message: dict[str, Any]) -> Answer:
        name = message.pop("op", None)
        if not isinstance(name, str) or name not in self._operations:
            raise InvalidRequest(f"op must be one of {', '.join(self._operations)}", field="op")
        if unknown := sorted(set(message) - set(_FIELDS[name])):
            raise InvalidRequest(f"{name} has no field {unknown[0][:80]!r}", field=unknown[0][:80])
        return await self._operations[name](message)

    async def _hello(self, message: Mapping[str, Any]) -> Answer:
        return {
            "version": PROTOCOL_VERSION,
            "release": self._release,
            "pid": os.getpid(),
            "instance": self._instance,
            "state_dir": self._state_dir,
        }

    async def _attach(self, message: Mapping[str, Any]) -> Answer:
        description = described(message)
        cipher = _cipher(message.get("data_key"), description.binding)
        attachment = await self._attachments.attach(description, cipher)
        return {"socket": attachment.socket_path, "state": attachment.state.value}

    async def _detach(self, message: Mapping[str, Any]) -> Answer:
        force = _field(message, "force", bool, False)
        clients = await self._attachments.detach(_field(message, "attachment_id", str), force=force)
        return {"clients": clients}

    async def _list(self, message: Mapping[str, Any]) -> Answer:
        size = _field(message, "page_size", int, MAX_PAGE)
        if not 1 <= size <= MAX_PAGE:
            raise InvalidRequest(f"page_size must be 1 to {MAX_PAGE}", field="page_size")
        found = self._attachments.page(_field(message, "after", str, ""), size + 1)
        told: list[Answer] = []
        room = MAX_LINE_BYTES - 1024
        for attachment in found[:size]:
            shown = _shown(attachment)
            room -= len(json.dumps(shown)) + 2
            if room < 0 and told:
                break
            told.append(shown)
        is_last = len(told) == len(found)
        return {"attachments": told, "next": "" if is_last else told[-1]["attachment_id"]}

    async def _status(self, message: Mapping[str, Any]) -> Answer:
        return _shown(self._attachments.get(_field(message, "attachment_id", str)))

    async def _trace(self, message: Mapping[str, Any]) -> Answer:
        trace = self._attachments.get(_field(message, "attachment_id", str)).trace
        first = _field(message, "first", int, 0)
        if first < 0:
            raise InvalidRequest("first is 0 or more", field="first")
        entries = [list(entry) for entry in trace.entries[first : first + MAX_ENTRIES]]
        return {"entries": entries, "total": len(trace.entries), "is_complete": trace.is_complete}

    async def _set_trace(self, message: Mapping[str, Any]) -> Answer:
        attachment = self._attachments.get(_field(message, "attachment_id", str))
        given = _field(message, "entries", list)
        if not all(
            isinstance(entry, list) and len(entry) == 2 and all(type(each) is int for each in entry)
            for entry in given
        ):
            raise InvalidRequest("entries are pairs of a start and a length, in bytes", field="entries")
        entries = [(start, length) for start, length in given]
        if not are_entries(entries, attachment.description.size_bytes):
            raise InvalidRequest("an entry is empty, or does not lie on the disk", field="entries")
        append = _field(message, "append", bool, False)
        return {"total": self._attachments.set_trace(attachment, entries, append=append)}


def _field(message: Mapping[str, Any], name: str, kind: type, default: Any = None) -> Any:
    value = message.get(name, default)
    if type(value) is not kind:
        raise InvalidRequest(f"{name} must be a {kind.__name__}", field=name)
    return value


def _cipher(data_key: Any, binding: str) -> ChunkCipher | None:
    """Raises InvalidRequest; nothing of the key is in what it says."""
    if data_key is None:
        if binding:
            raise FailedPrecondition(
                "an encrypted image needs its data key", field="data_key", hint="hand it over with attach"
            )
        return None
    try:
        return ChunkCipher(base64.b64decode(data_key, validate=True), binding)
    except (ValueError, TypeError, binascii.Error):
        raise InvalidRequest(
            "data_key must be 32 bytes in base64, with the binding they are of", field="data_key"
        ) from None


def _shown(attachment: Attachment) -> Answer:
    description = attachment.description
    shown: Answer = {
        "attachment_id": description.attachment_id,
        "export_name": description.export_name,
        "store": description.store,
        "manifest_id": description.manifest_id,
        "size_bytes": description.size_bytes,
        "digest": description.digest,
        "is_encrypted": description.is_encrypted,
        "socket": attachment.socket_path,
        "state": attachment.state.value,
        "detail": attachment.failure[:500],
        "clients": attachment.clients,
        "requests": attachment.requests,
        "read_bytes": attachment.read_bytes,
        "errors": attachment.errors,
    }
    counted = ("fetched_bytes", "cached_bytes", "prefetched_bytes", "memory_hits", "memory_misses")
    stats = attachment.disk.stats if attachment.has_disk else None
    shown |= {name: getattr(stats, name) if stats else 0 for name in counted}
    shown["last_error"] = stats.last_error[:500] if stats else ""
    return shown


def _failed(error: ImsError) -> Answer:
    told = {"reason": error.reason, "message": error.message[:2000], "hint": error.hint[:1000]}
    if error.field:
        told["field"] = error.field
    return {"ok": False, "error": told}


def _too_long() -> InvalidRequest:
    return InvalidRequest(f"a line has {MAX_LINE_BYTES} bytes at most")
