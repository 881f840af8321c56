"""A world for the block server, in a folder whose path is short enough for sockets."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from imsd.chunks.decode_pool import DecodePool
from tests.unit.nbd.block_world import BlockWorld, started


@pytest.fixture
def pool() -> Iterator[DecodePool]:
    pool = DecodePool(2, 32 << 20)
    yield pool
    pool.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="imsd-nbd."))
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def unstarted(pool: DecodePool, folder: Path) -> BlockWorld:
    return BlockWorld(folder, pool)


@pytest.fixture
async def world(unstarted: BlockWorld) -> AsyncIterator[BlockWorld]:
    async with started(unstarted):
        yield unstarted
