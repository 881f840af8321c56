"""What all tests need of the process they run in."""

from __future__ import annotations

import re
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.openbao import OpenBao, started_openbao
from tests.seaweedfs import SeaweedFS, started_seaweedfs
from tests.web_server import WebServer, make_certificate, serve_web

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

# How long an example takes says something of the machine: a busy one must not fail a change.
settings.register_profile("imsd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("imsd")


def pytest_configure() -> None:
    """Let Ctrl-C reach the programs under test.

    A shell starts its background jobs with SIGINT ignored, and what they start inherits that: a suite
    that runs in the background could not interrupt anything.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a case of bytes, or of a text with a UUID, by its argument, never by what it is.

    What a test makes while it is collected may differ from process to process (a gzip file holds the
    second it was made in), and the workers of one run have to agree on the names of all tests.
    """
    if isinstance(val, str):
        return argname if UUID.search(val) else None
    return argname if isinstance(val, bytes | bytearray | memoryview) else None


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the server of the web that tests fetch from."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def web(certificate: Path) -> AsyncIterator[WebServer]:
    async with serve_web(certificate) as server:
        yield server


@pytest.fixture(scope="session")
def openbao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """A real OpenBao, the same for all tests that ask for it."""
    with started_openbao(tmp_path_factory.mktemp("openbao")) as server:
        yield server


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """A real S3 service, the same for all tests that ask for it."""
    with started_seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture
def s3_bucket(seaweedfs: SeaweedFS) -> Iterator[str]:
    """A bucket of the test's own."""
    name = seaweedfs.make_bucket()
    yield name
    seaweedfs.remove_bucket(name)
