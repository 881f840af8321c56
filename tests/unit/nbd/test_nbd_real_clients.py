"""The programs that people use: libnbd's and QEMU's."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.unit.chunks.ingest_world import MIB
from tests.unit.nbd.block_world import BlockWorld, cipher, mixed_disk, run

DISK = mixed_disk()
CONTENT = DISK.content()
SIZE = len(CONTENT)


@pytest.fixture(params=["plain", "encrypted"])
async def uri(request: pytest.FixtureRequest, world: BlockWorld) -> str:
    await world.attach(DISK, cipher=cipher() if request.param == "encrypted" else None)
    return f"nbd+unix:///disk?socket={world.socket()}"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(CONTENT)
    return path


async def test_nbdinfo_says_what_it_is(uri: str) -> None:
    shown = json.loads(await run("nbdinfo", "--json", "--list", uri))
    (export,) = shown["exports"]
    assert (export["export-name"], export["export-size"]) == ("disk", SIZE)
    assert export["is_read_only"]
    assert export["can_multi_conn"]
    assert export["can_df"]
    assert export["can_cache"]
    assert export["contexts"] == ["base:allocation"]
    assert [export[f"block_size_{each}"] for each in ("minimum", "preferred", "maximum")] == [
        1,
        64 << 10,
        32 << 20,
    ]


async def test_maps_of_nbdinfo_and_qemu_img_agree_with_the_disk(uri: str) -> None:
    ours = json.loads(await run("nbdinfo", "--json", "--map", uri))
    assert sum(extent["length"] for extent in ours) == SIZE
    for extent in ours:
        if extent["type"] == 3:
            assert not any(CONTENT[extent["offset"] :][: extent["length"]])
    theirs = json.loads(await run("qemu-img", "map", "--output=json", "-f", "raw", uri))
    assert [(each["offset"], each["length"], each["type"] == 3) for each in ours] == [
        (each["start"], each["length"], each["zero"]) for each in theirs
    ]


@pytest.mark.parametrize(
    "options", [(), ("--connections=1",), ("--synchronous",), ("--request-size=2097152",)]
)
async def test_nbdcopy_copies_it(uri: str, tmp_path: Path, options: tuple[str, ...]) -> None:
    await run("nbdcopy", *options, uri, tmp_path / "out.raw")
    assert (tmp_path / "out.raw").read_bytes() == CONTENT


async def test_qemu_img_compares_and_converts_it(uri: str, raw: Path, tmp_path: Path) -> None:
    assert "identical" in await run("qemu-img", "compare", "-f", "raw", "-F", "raw", uri, raw)
    for options in ((), ("-m", "16", "-W")):
        await run("qemu-img", "convert", *options, "-f", "raw", "-O", "raw", uri, tmp_path / "out.raw")
        assert (tmp_path / "out.raw").read_bytes() == CONTENT


async def test_an_overlay_on_it_takes_writes(uri: str, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.qcow2"
    await run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", uri, overlay)
    await run("qemu-io", "-f", "qcow2", "-c", f"write -P 0x55 {8 * MIB + 512} 4096", overlay)
    await run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", overlay, tmp_path / "out.raw")
    expected = bytearray(CONTENT)
    expected[8 * MIB + 512 : 8 * MIB + 512 + 4096] = b"\x55" * 4096
    assert (tmp_path / "out.raw").read_bytes() == expected


async def test_qemu_io_cannot_write_to_it(uri: str) -> None:
    assert "ermission denied" in await run("qemu-io", "-f", "raw", "-c", "write 0 4096", uri, check=False)
    assert "4 KiB, 1 ops" in await run("qemu-io", "-r", "-f", "raw", "-c", "read 0 4096", uri)


async def test_qemu_nbd_serves_it_on(uri: str, tmp_path: Path, world: BlockWorld) -> None:
    """A client that is a server too, and keeps its connection."""
    socket = world.folder / "q.sock"
    process = await asyncio.create_subprocess_exec(
        "qemu-nbd", "-r", "-f", "raw", "-t", "-k", str(socket), "-e", "4", uri
    )
    try:
        async with asyncio.timeout(30):
            while not await asyncio.to_thread(socket.exists):
                await asyncio.sleep(0.02)
        await run("nbdcopy", f"nbd+unix:///?socket={socket}", tmp_path / "out.raw")
    finally:
        process.terminate()
        await process.wait()
    assert (tmp_path / "out.raw").read_bytes() == CONTENT


async def test_sixteen_programs_read_it_at_once_and_fetch_it_once(
    uri: str, world: BlockWorld, tmp_path: Path
) -> None:
    outputs = [tmp_path / f"{number}.raw" for number in range(16)]
    await asyncio.gather(*(run("nbdcopy", "--connections=2", uri, output) for output in outputs))
    assert all(output.read_bytes() == CONTENT for output in outputs)
    assert world.store.most_reads_of_a_byte() == 1
