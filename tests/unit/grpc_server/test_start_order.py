"""At the start: addresses first, then recovery, and only then answers."""

from pathlib import Path

import grpc
import pytest

from imsd.config import Config
from imsd.core.dispatcher import Dispatcher
from imsd.daemon import open_daemon
from imsd.v1 import catalog_pb2, catalog_pb2_grpc


async def test_nothing_is_answered_before_recovery_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.sock"
    seen: list[object] = []
    recover = Dispatcher.start

    async def info(seconds: float) -> None:
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            stub = catalog_pb2_grpc.CatalogServiceStub(channel)
            await stub.GetServiceInfo(catalog_pb2.GetServiceInfoRequest(), timeout=seconds)

    async def watched(dispatcher: Dispatcher) -> int:
        seen.append(path.is_socket())
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await info(0.3)
        seen.append(refused.value.code())
        return await recover(dispatcher)

    monkeypatch.setattr(Dispatcher, "start", watched)
    async with open_daemon(
        Config.model_validate({"state_dir": tmp_path / "state", "listen": [f"unix:{path}"]})
    ):
        await info(10)
    assert seen == [True, grpc.StatusCode.DEADLINE_EXCEEDED]
