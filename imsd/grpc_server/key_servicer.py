"""KeyService: a wire message in, one call on the core, a wire message out."""

from __future__ import annotations

from imsd.core.jobs import Jobs
from imsd.core.keys.keys import Keys, KeyView
from imsd.core.keys.project_keys import NewKey
from imsd.metadata.keys import KeyStatus
from imsd.v1 import job_pb2
from imsd.v1 import key_pb2 as pb
from imsd.v1.key_pb2_grpc import KeyServiceServicer

from .context import Context
from .convert import job_to_pb, key_states_from_pb, request_key, time_to_pb
from .pages import page_that_fits


class KeyServicer(KeyServiceServicer):
    """Serves ``imsd.v1.KeyService``; what each call means is written in the .proto file."""

    def __init__(self, keys: Keys, jobs: Jobs) -> None:
        self._keys = keys
        self._jobs = jobs

    async def CreateKey(self, request: pb.CreateKeyRequest, _: Context) -> pb.Key:
        new = NewKey(name=request.name, description=request.description, key_service=request.key_service)
        key = request_key(request, request.project_id, request.request_id)
        return _key_to_pb(await self._keys.create(key, new))

    async def GetKey(self, request: pb.GetKeyRequest, _: Context) -> pb.Key:
        return _key_to_pb(await self._keys.get(request.project_id, request.key_id))

    async def ListKeys(self, request: pb.ListKeysRequest, _: Context) -> pb.ListKeysResponse:
        states = tuple(map(KeyStatus, key_states_from_pb(request.states)))

        async def page(size: int) -> pb.ListKeysResponse:
            found, token = await self._keys.list(request.project_id, states, size, request.page_token)
            return pb.ListKeysResponse(keys=map(_key_to_pb, found), next_page_token=token)

        return await page_that_fits(page, lambda made: made.keys, request.page_size)

    async def UpdateKey(self, request: pb.UpdateKeyRequest, _: Context) -> pb.Key:
        name = request.name if request.HasField("name") else None
        description = request.description if request.HasField("description") else None
        return _key_to_pb(await self._keys.update(request.project_id, request.key_id, name, description))

    async def EnableKey(self, request: pb.EnableKeyRequest, _: Context) -> pb.Key:
        return _key_to_pb(await self._keys.enable(request.project_id, request.key_id))

    async def DisableKey(self, request: pb.DisableKeyRequest, _: Context) -> pb.Key:
        return _key_to_pb(await self._keys.disable(request.project_id, request.key_id))

    async def RotateKey(self, request: pb.RotateKeyRequest, _: Context) -> job_pb2.Job:
        key = request_key(request, request.project_id, request.request_id)
        job_id = await self._keys.rotate(key, request.key_id)
        return job_to_pb(await self._jobs.get(key.project_id, job_id))

    async def ScheduleKeyDeletion(self, request: pb.ScheduleKeyDeletionRequest, _: Context) -> pb.Key:
        return _key_to_pb(
            await self._keys.schedule_deletion(request.project_id, request.key_id, request.pending_days)
        )

    async def CancelKeyDeletion(self, request: pb.CancelKeyDeletionRequest, _: Context) -> pb.Key:
        return _key_to_pb(await self._keys.cancel_deletion(request.project_id, request.key_id))


def _key_to_pb(view: KeyView) -> pb.Key:
    record = view.record
    return pb.Key(
        id=record.id,
        project_id=record.project_id,
        name=record.name,
        description=record.description,
        key_service=record.key_service,
        state=pb.KeyState.Value(f"KEY_STATE_{record.state.name}"),
        version=record.version,
        image_count=view.image_count,
        created_at=time_to_pb(record.created_at),
        updated_at=time_to_pb(record.updated_at),
        delete_at=time_to_pb(record.delete_at),
        problem=view.problem,
    )
