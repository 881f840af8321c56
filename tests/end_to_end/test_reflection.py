"""A tool that knows nothing of imsd, `buf curl`, asks the daemon for its contract and calls it."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.rpc import error_details_pb2

from imsd.grpc_server.server import SERVICES
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import MIB, random_disk

BUF = Path(sys.executable).with_name("buf")
NOT_FOUND = 5 << 3  # buf's exit code: the status of gRPC, shifted

Curl = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def curl(daemon: DaemonProcess, tmp_path: Path) -> Curl:
    """`buf curl` on the unix socket, with no schema but what the daemon tells."""

    def curl(path: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        socket = ("--protocol", "grpc", "--http2-prior-knowledge", "--unix-socket", str(daemon.socket))
        return subprocess.run(
            [BUF, "curl", *socket, *arguments, f"http://imsd/{path}"],
            cwd=tmp_path,  # no folder of a buf module
            capture_output=True,
            text=True,
            timeout=60,
        )

    return curl


def answer(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def test_the_daemon_tells_its_contract_and_answers_by_it(curl: Curl, stubs: Stubs) -> None:
    image = await wire.import_disk(stubs, random_disk(MIB), name="found")
    listed = curl("", "--list-services")
    assert set(SERVICES) <= set(listed.stdout.split()), listed.stderr
    methods = set(curl("", "--list-methods").stdout.split())
    assert {"imsd.v1.UploadService/WriteUpload", "imsd.v1.ImageService/ListImages"} <= methods
    assert answer(curl("imsd.v1.CatalogService/GetServiceInfo"))["defaultStore"] == "main"
    wanted = json.dumps({"filter": {"name": "fou*", "statuses": ["IMAGE_STATUS_ACTIVE"]}})
    images = answer(curl("imsd.v1.ImageService/ListImages", "--data", wanted))["images"]
    assert [(each["id"], each["digest"]) for each in images] == [(image.id, image.digest)]
    job = answer(curl("imsd.v1.JobService/WatchJob", "--data", json.dumps({"job_id": image.job_id})))
    assert job["state"] == "JOB_STATE_SUCCESS"


def test_a_refusal_comes_with_its_reason_and_its_hint(curl: Curl) -> None:
    refused = curl("imsd.v1.ImageService/ResolveImage", "--data", '{"name_or_id": "nowhere"}')
    assert refused.returncode == NOT_FOUND, refused.stderr
    told = json.loads(refused.stderr)
    assert told["message"] == "there is no image 'nowhere' in project default"
    assert [detail["type"] for detail in told["details"]] == ["google.rpc.ErrorInfo"]
    value = told["details"][0]["value"]
    explained = error_details_pb2.ErrorInfo.FromString(base64.b64decode(value + "=" * (-len(value) % 4)))
    assert (explained.domain, explained.reason) == ("imsd", "NOT_FOUND")
    assert explained.metadata["hint"] == "list the images of the project"
