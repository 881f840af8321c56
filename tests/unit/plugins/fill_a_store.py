"""Run as a process that may write files of 1 MiB at most: what a store says when there is no room."""

from __future__ import annotations

import asyncio
import resource
import sys
from pathlib import Path

from imsd_localfs.options import LocalStoreOptions
from imsd_localfs.store import open_local_store

from imsd.contract import FailedPrecondition, LimitExceeded, blob_id


async def main(path: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    async with open_local_store(LocalStoreOptions(path=path)) as store:
        async with store.begin(blob_id("big")) as ingest:
            try:
                await ingest.write([bytes(700 << 10)] * 2)
            except LimitExceeded as error:
                print(error.reason)
            try:
                await ingest.commit()
            except FailedPrecondition:
                print("not committed")
        async with store.begin(blob_id("small")) as ingest:
            await ingest.write([b"small"])
            await ingest.commit()
        print(*[stored.id async for stored in store.list()])


asyncio.run(main(Path(sys.argv[1])))
