"""`KeyService`, as methods."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from imsd.v1 import job_pb2
from imsd.v1 import key_pb2 as pb
from imsd.v1.key_pb2_grpc import KeyServiceStub

from .connection import Connection

PAGE_SIZE = 1000


class KeyCalls:
    """What each call means, and how it may fail, is written in ``proto/imsd/v1/key.proto``.

    Keys are named by their ids or their names.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._project_id = connection.project_id
        self._stub = KeyServiceStub(connection.channel)

    async def create(
        self, name: str, description: str = "", key_service: str = "", request_id: str = ""
    ) -> pb.Key:
        request = pb.CreateKeyRequest(
            project_id=self._project_id,
            request_id=request_id,
            name=name,
            description=description,
            key_service=key_service,
        )
        made: pb.Key = await self._connection.call(self._stub.CreateKey, request)
        return made

    async def get(self, key: str) -> pb.Key:
        request = pb.GetKeyRequest(project_id=self._project_id, key_id=key)
        found: pb.Key = await self._connection.call(self._stub.GetKey, request)
        return found

    async def list(
        self, states: Sequence[pb.KeyState.ValueType] = (), page_size: int = PAGE_SIZE
    ) -> AsyncIterator[pb.Key]:
        """The keys of the project, newest first, page by page."""
        request = pb.ListKeysRequest(project_id=self._project_id, states=states, page_size=page_size)
        while True:
            page = await self._connection.call(self._stub.ListKeys, request)
            for key in page.keys:
                yield key
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def update(self, key: str, name: str | None = None, description: str | None = None) -> pb.Key:
        """None: it stays as it is."""
        request = pb.UpdateKeyRequest(
            project_id=self._project_id, key_id=key, name=name, description=description
        )
        changed: pb.Key = await self._connection.call(self._stub.UpdateKey, request)
        return changed

    async def enable(self, key: str) -> pb.Key:
        request = pb.EnableKeyRequest(project_id=self._project_id, key_id=key)
        changed: pb.Key = await self._connection.call(self._stub.EnableKey, request)
        return changed

    async def disable(self, key: str) -> pb.Key:
        request = pb.DisableKeyRequest(project_id=self._project_id, key_id=key)
        changed: pb.Key = await self._connection.call(self._stub.DisableKey, request)
        return changed

    async def rotate(self, key: str, request_id: str = "") -> job_pb2.Job:
        """The job that rotates it."""
        request = pb.RotateKeyRequest(project_id=self._project_id, key_id=key, request_id=request_id)
        job: job_pb2.Job = await self._connection.call(self._stub.RotateKey, request)
        return job

    async def schedule_deletion(self, key: str, pending_days: int) -> pb.Key:
        request = pb.ScheduleKeyDeletionRequest(
            project_id=self._project_id, key_id=key, pending_days=pending_days
        )
        changed: pb.Key = await self._connection.call(self._stub.ScheduleKeyDeletion, request)
        return changed

    async def cancel_deletion(self, key: str) -> pb.Key:
        request = pb.CancelKeyDeletionRequest(project_id=self._project_id, key_id=key)
        changed: pb.Key = await self._connection.call(self._stub.CancelKeyDeletion, request)
        return changed
