"""Downloads with `ims_client`: whole, sparse, or nothing at all."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from ims_client import CallFailed, Download, ImsClient, download_to_file, download_to_stream

from imsd.v1 import image_pb2
from tests.unit.clients.conftest import until
from tests.unit.clients.fake_daemon import FakeDaemon
from tests.unit.clients.test_client_uploads import MIB, random_bytes


async def test_a_download_is_the_file_with_its_holes(
    client: ImsClient, daemon: FakeDaemon, tmp_path: Path
) -> None:
    content = random_bytes(2 * MIB) + bytes(30 * MIB) + random_bytes(77) + bytes(5 * MIB)
    image = daemon.add_image("web", content)
    seen = []
    header = await download_to_file(
        Download(client.images, image.id, image_pb2.DISK_FORMAT_RAW),
        tmp_path / "out",
        lambda position, header: seen.append(position),
    )
    assert (tmp_path / "out").read_bytes() == content
    assert header.file_size_bytes == len(content) == seen[-1]
    assert (tmp_path / "out").stat().st_blocks * 512 < 6 * MIB
    assert os.listdir(tmp_path) == ["out"]


async def test_a_download_that_is_cut_leaves_nothing_and_replaces_nothing(
    client: ImsClient, daemon: FakeDaemon, tmp_path: Path
) -> None:
    image = daemon.add_image("web", random_bytes(5 * MIB))
    daemon.state.cut_download_at = 3 * MIB
    (tmp_path / "out").write_bytes(b"before")
    with pytest.raises(CallFailed):
        await download_to_file(Download(client.images, image.id), tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out").read_bytes() == b"before"


async def test_a_cancelled_download_leaves_nothing(
    client: ImsClient, daemon: FakeDaemon, tmp_path: Path
) -> None:
    image = daemon.add_image("web", random_bytes(9 * MIB))
    daemon.state.slow_download = True
    task = asyncio.create_task(download_to_file(Download(client.images, image.id), tmp_path / "out"))
    await until(lambda: any(path.stat().st_size for path in tmp_path.iterdir()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not os.listdir(tmp_path)


class BrokenImages:
    """A daemon that announces a file of some length, sends something else, and then says 100 bytes."""

    def __init__(self, *messages: image_pb2.DownloadImageResponse, announced: int = 100) -> None:
        self._messages = messages
        self._announced = announced

    async def download(self, *_: object) -> AsyncIterator[image_pb2.DownloadImageResponse]:
        answer = image_pb2.DownloadImageResponse
        yield answer(header=answer.Header(file_size_bytes=self._announced))
        for message in self._messages:
            yield message
        yield answer(complete=answer.Complete(file_size_bytes=100))


ANSWER = image_pb2.DownloadImageResponse


@pytest.mark.parametrize(
    "messages",
    [
        [ANSWER(data=b"x" * 60)],
        [ANSWER(data=b"x" * 101)],
        [ANSWER(data=b"x" * 100), ANSWER(zero_length=1)],
        [ANSWER(zero_length=1 << 62)],
        [ANSWER(data=b"x" * 100), ANSWER(zero_length=-50), ANSWER(zero_length=50)],
        [ANSWER(data=b"x" * 100), ANSWER(data=b"y", decoded_length=-50), ANSWER(zero_length=50)],
        [ANSWER(data=b"no frame", decoded_length=100)],
    ],
)
async def test_a_download_that_is_not_what_was_announced_is_refused(
    messages: list[image_pb2.DownloadImageResponse], tmp_path: Path
) -> None:
    download = Download(BrokenImages(*messages), "id")  # type: ignore[arg-type]
    with pytest.raises(CallFailed) as refused:
        await download_to_file(download, tmp_path / "out")
    assert refused.value.reason == "DATA_LOSS"
    assert not os.listdir(tmp_path)


async def test_a_file_whose_length_is_known_at_its_end_is_received(tmp_path: Path) -> None:
    images = BrokenImages(ANSWER(data=b"x" * 60), ANSWER(zero_length=40), announced=0)
    download = Download(images, "id")  # type: ignore[arg-type]
    await download_to_file(download, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"x" * 60 + bytes(40)
    assert download.position == 100
    assert download.size_bytes == 0


@pytest.mark.parametrize(
    "messages",
    [
        [ANSWER(data=b"x" * 99)],
        [ANSWER(data=b"x" * 101)],
        [ANSWER(data=b"x" * 150), ANSWER(zero_length=-50)],
    ],
)
async def test_a_file_whose_length_is_known_at_its_end_must_have_it(
    messages: list[image_pb2.DownloadImageResponse], tmp_path: Path
) -> None:
    download = Download(BrokenImages(*messages, announced=0), "id")  # type: ignore[arg-type]
    with pytest.raises(CallFailed) as refused:
        await download_to_file(download, tmp_path / "out")
    assert refused.value.reason == "DATA_LOSS"


async def test_a_stream_gets_every_zero(client: ImsClient, daemon: FakeDaemon, tmp_path: Path) -> None:
    content = random_bytes(MIB) + bytes(6 * MIB) + b"end"
    image = daemon.add_image("web", content)
    with (tmp_path / "out").open("wb") as out:
        await download_to_stream(Download(client.images, image.id), out.fileno())
    assert (tmp_path / "out").read_bytes() == content


async def test_a_pipe_that_nobody_empties_can_be_given_up_on(client: ImsClient, daemon: FakeDaemon) -> None:
    image = daemon.add_image("web", random_bytes(3 * MIB))
    read_fd, write_fd = os.pipe()
    try:
        task = asyncio.create_task(download_to_stream(Download(client.images, image.id), write_fd))
        await until(lambda: "DownloadImage" in daemon.state.calls)
        await asyncio.sleep(0.1)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=5)
        assert done
    finally:
        os.close(read_fd)
        os.close(write_fd)


async def test_a_closed_pipe_says_so(client: ImsClient, daemon: FakeDaemon) -> None:
    image = daemon.add_image("web", random_bytes(3 * MIB))
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    with pytest.raises(BrokenPipeError):
        await download_to_stream(Download(client.images, image.id), write_fd)
    os.close(write_fd)
