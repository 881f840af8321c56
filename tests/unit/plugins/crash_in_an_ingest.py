"""Run as a process: fills an ingest of the store at argv[1], says so, and waits to be killed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from imsd_localfs import store as localfs
from imsd_localfs.options import LocalStoreOptions

from imsd.contract import blob_id


async def main(path: Path, unnamed: bool) -> None:
    if not unnamed:
        setattr(localfs, "offers_unnamed_files", lambda root_fd: False)  # noqa: B010
    async with localfs.open_local_store(LocalStoreOptions(path=path)) as store:
        async with store.begin(blob_id("whole")) as ingest:
            await ingest.write([b"whole"])
            await ingest.commit()
        async with store.begin(blob_id("packs/half")) as ingest:
            await ingest.write([bytes(1 << 20)])
            print("written", flush=True)
            await asyncio.sleep(60)


asyncio.run(main(Path(sys.argv[1]), sys.argv[2] == "unnamed"))
