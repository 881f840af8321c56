"""What crosses the wire besides the contract: broken streams, lying sizes, errors, a server that is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from imsd.contract import (
    BlobStore,
    ByteRange,
    DataLoss,
    ImsError,
    InvalidRequest,
    LimitExceeded,
    StoredBlob,
    Unavailable,
    blob_id,
)
from imsd.testing.blob_servicer import BlobServicer
from imsd.testing.blob_wire import failure_from_pb, failure_to_pb
from imsd.testing.faulty_store import Call, Fault, FaultKind, FaultyStore
from imsd.testing.memory_store import MemoryStore
from imsd.testing.remote_store import open_remote_store
from imsd.testing.v1 import blob_pb2 as pb
from imsd.testing.v1.blob_pb2_grpc import BlobServiceStub, add_BlobServiceServicer_to_server

BLOB = blob_id("blob")

BEGIN = pb.IngestRequest(begin=pb.IngestRequest.Begin(id=BLOB))
WRITE = pb.IngestRequest(write=b"half an ima")


def commit(size_bytes: int) -> pb.IngestRequest:
    return pb.IngestRequest(commit=pb.IngestRequest.Commit(size_bytes=size_bytes))


class Served:
    """A faulty store behind a server, and its address."""

    def __init__(self, socket: Path) -> None:
        self.address = f"unix:{socket}"
        self.store = FaultyStore(MemoryStore(capacity_bytes=1 << 20))
        self.servicer = BlobServicer(self.store)
        self.server = grpc.aio.server()
        add_BlobServiceServicer_to_server(self.servicer, self.server)
        self.server.add_insecure_port(self.address)

    async def blobs(self) -> list[StoredBlob]:
        return [stored async for stored in self.store.list()]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    served = Served(tmp_path / "s")
    await served.server.start()
    yield served
    await served.server.stop(grace=0)
    await served.servicer.settled()


@pytest.fixture
async def remote(served: Served) -> AsyncIterator[BlobStore]:
    async with open_remote_store(served.address) as store:
        yield store


@pytest.fixture
async def stub(served: Served) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(served.address) as channel:
        yield BlobServiceStub(channel)


async def test_a_stream_that_ends_without_commit_is_discarded(served: Served, stub: Any) -> None:
    call = stub.Ingest(iter([BEGIN, WRITE]))
    assert len([answer async for answer in call]) == 2
    await served.servicer.settled()
    assert await served.blobs() == []
    assert (await served.store.usage()).used_bytes == 0


@pytest.mark.parametrize("answers", [1, 2])
async def test_a_client_that_goes_away_leaves_nothing(served: Served, stub: Any, answers: int) -> None:
    call = stub.Ingest()
    for step in [BEGIN, WRITE][:answers]:
        await call.write(step)
        await call.read()
    call.cancel()
    await asyncio.wait_for(served.servicer.settled(), 10)
    assert await served.blobs() == []
    assert (await served.store.usage()).used_bytes == 0


@pytest.mark.parametrize(
    "steps",
    [[], [WRITE], [commit(0)], [BEGIN, BEGIN], [BEGIN, WRITE, commit(10)], [BEGIN, pb.IngestRequest()]],
)
async def test_steps_out_of_order_and_lying_sizes_are_refused(
    served: Served, stub: Any, steps: list[pb.IngestRequest]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stub.Ingest(iter(steps)):
            pass
    failure = pb.Failure.FromString(dict(caught.value.trailing_metadata())["imsd-failure-bin"])
    assert failure.condition == "InvalidRequest"
    assert await served.blobs() == []


async def test_an_id_that_is_none_is_refused(remote: BlobStore) -> None:
    with pytest.raises(InvalidRequest):
        await remote.stat(blob_id("x").replace("x", "../x"))  # type: ignore[arg-type]


async def test_errors_arrive_as_they_were_raised(served: Served, remote: BlobStore) -> None:
    with pytest.raises(LimitExceeded) as caught:
        async with remote.begin(BLOB) as ingest:
            await ingest.write([bytes(2 << 20)])
    assert caught.value.reason == "CAPACITY_EXHAUSTED"
    served.store.add(Fault(call=Call.DELETE, kind=FaultKind.RAISE_BEFORE))
    with pytest.raises(Unavailable) as unavailable:
        await remote.delete(BLOB)
    assert unavailable.value.reason == "STORE_UNAVAILABLE"


async def test_after_an_ambiguous_commit_stat_tells(served: Served, remote: BlobStore) -> None:
    served.store.add(Fault(call=Call.COMMIT, kind=FaultKind.RAISE_AFTER))
    async with remote.begin(BLOB) as ingest:
        await ingest.write([b"whole"])
        with pytest.raises(Unavailable):
            await ingest.commit()
    assert (await remote.stat(BLOB)).size_bytes == 5


async def test_a_short_answer_is_lost_data(served: Served, remote: BlobStore) -> None:
    async with remote.begin(BLOB) as ingest:
        await ingest.write([b"whole"])
        await ingest.commit()
    served.store.add(Fault(call=Call.READ, kind=FaultKind.SHORT_READ))
    with pytest.raises(DataLoss, match="length"):
        await remote.read(BLOB, [ByteRange(0, 5)])


async def test_a_server_that_is_gone_is_unavailable(served: Served, remote: BlobStore) -> None:
    async with remote.begin(BLOB) as ingest:
        await served.server.stop(grace=0)
        with pytest.raises(Unavailable):
            await ingest.write([b"x"])
        with pytest.raises(Unavailable):
            await ingest.commit()
    for call in (remote.stat(BLOB), remote.usage(), remote.delete(BLOB)):
        with pytest.raises(Unavailable) as caught:
            await call
        assert caught.value.reason == "STORE_UNAVAILABLE"


async def test_a_store_that_nobody_serves_does_not_open(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="out of reach"):
        async with open_remote_store(f"unix:{tmp_path / 'nobody'}"):
            pass


@pytest.mark.parametrize("condition", ImsError.__subclasses__())
def test_every_condition_crosses_the_wire(condition: type[ImsError]) -> None:
    error = failure_from_pb(failure_to_pb(condition("what", hint="do")))
    assert type(error) is condition
    assert (error.message, error.hint, error.reason) == ("what", "do", condition.default_reason)


@pytest.mark.parametrize("condition", ["", "Annotations", "annotations", "ClassVar", "ImsError", "Newer"])
def test_an_unknown_condition_is_some_error_of_the_contract(condition: str) -> None:
    assert isinstance(failure_from_pb(pb.Failure(condition=condition, message="what")), ImsError)
