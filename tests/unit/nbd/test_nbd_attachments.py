"""Attaching, detaching, moving, and what is there again after a restart."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import stat
from dataclasses import asdict, replace

import pytest

from imsd.contract import (
    Conflict,
    DataLoss,
    FailedPrecondition,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    Unavailable,
)
from imsd.nbd import attachments, disks
from imsd.nbd.attachment import State
from tests.unit.chunks.ingest_world import MIB, SparseDisk, noise
from tests.unit.chunks.stored_disk import get, put
from tests.unit.nbd.block_world import (
    DATA_KEY,
    BlockWorld,
    cipher,
    mixed_disk,
    started,
)
from tests.unit.nbd.raw_client import READ, connected, reading

DISK = mixed_disk()
CONTENT = DISK.content()
SIZE = len(CONTENT)
NO_DIGEST = "b3t:" + "0" * 64
OTHER = SparseDisk(SIZE, {0: noise(99, MIB)})


async def until_ready(world: BlockWorld, attachment_id: str = "a1") -> None:
    await until_it_is(State.READY, world, attachment_id)


async def until_it_is(state: State, world: BlockWorld, attachment_id: str = "a1") -> None:
    async with asyncio.timeout(30):
        while world.attachments.get(attachment_id).state is not state:
            await asyncio.sleep(0.01)


async def test_an_attach_that_is_repeated_changes_nothing(world: BlockWorld) -> None:
    first = await world.attach(DISK)
    async with reading(world.socket()) as client:
        again = await world.attachments.attach(first.description, None)
        assert again is first
        assert await client.read(0, 512) == CONTENT[:512]


async def test_many_attaches_at_once_make_one(world: BlockWorld) -> None:
    told = world.description(await world.put(DISK), SIZE)
    made = await asyncio.gather(*(world.attachments.attach(told, None) for _ in range(10)))
    assert len({id(attachment) for attachment in made}) == 1


async def test_another_disk_under_a_known_id_is_a_conflict(world: BlockWorld) -> None:
    attachment = await world.attach(DISK)
    changes = ({"size_bytes": SIZE + 512}, {"export_name": "other"}, {"binding": "x"}, {"digest": NO_DIGEST})
    for change in changes:
        with pytest.raises(Conflict):
            await world.attachments.attach(replace(attachment.description, **change), None)


async def test_sockets_are_for_the_group_and_gone_after_a_detach(world: BlockWorld) -> None:
    path = (await world.attach(DISK)).socket_path
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
    assert await world.attachments.detach("a1", force=False) == 0
    assert os.listdir(world.folder / "nbd") == []
    with pytest.raises(NotFound):
        await world.attachments.detach("a1", force=False)


async def test_a_disk_in_use_is_detached_by_force_only(world: BlockWorld) -> None:
    await world.attach(DISK)
    async with reading(world.socket()) as client:
        with pytest.raises(FailedPrecondition, match="1 clients"):
            await world.attachments.detach("a1", force=False)
        assert await client.read(0, 512) == CONTENT[:512]
        assert await world.attachments.detach("a1", force=True) == 1
        assert await client.is_cut_off()


async def test_who_has_just_connected_is_not_cut_off_by_a_detach(world: BlockWorld) -> None:
    await world.attach(DISK)
    with socket.socket(socket.AF_UNIX) as connecting:
        connecting.connect(world.socket())
        with pytest.raises(FailedPrecondition, match="1 clients"):
            await world.attachments.detach("a1", force=False)
        connecting.setblocking(False)
        greeting = await asyncio.get_running_loop().sock_recv(connecting, 8)
        assert greeting == b"NBDMAGIC"


async def test_a_detach_ends_reads_that_wait_for_the_store(world: BlockWorld) -> None:
    await world.attach(DISK)
    async with reading(world.socket()) as client:
        world.store.gate.clear()
        client.send(READ, 0, MIB)
        await asyncio.sleep(0.1)
        world.store.gate.set()
        await world.attachments.detach("a1", force=True)
        assert await client.is_cut_off()


async def test_a_store_that_never_answers_keeps_no_disk_attached(world: BlockWorld) -> None:
    """Who waits for the answer would keep one of a few connections to the control socket."""
    await world.attach(DISK)
    await world.attachments.get("a1").disk.read(8 * MIB, 512)
    async with reading(world.socket()) as client:
        world.store.gate.clear()
        client.send(READ, 0, MIB)
        async with asyncio.timeout(20):
            while not world.attachments.get("a1").disk.is_busy:
                await asyncio.sleep(0.01)
            assert await world.attachments.detach("a1", force=True) == 1
        assert await client.is_cut_off()
    world.store.gate.set()


async def test_a_move_to_a_store_that_never_answers_is_given_up(
    world: BlockWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attachments, "OPEN_SECONDS", 0.1)
    told = (await world.attach(DISK)).description
    moved = replace(told, store="other", manifest_id=await world.put(DISK, "other"))
    world.stores["other"].gate.clear()
    async with asyncio.timeout(20):
        with pytest.raises(Unavailable, match="other"):
            await world.attachments.attach(moved, None)
    world.stores["other"].gate.set()
    async with reading(world.socket()) as client:
        assert await client.read(0, 512) == CONTENT[:512]
    assert (await world.attachments.attach(moved, None)).description == moved


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"store": "nowhere"}, NotFound),
        ({"manifest_id": "0" * 32}, DataLoss),
        ({"size_bytes": 4096}, FailedPrecondition),
        ({"digest": NO_DIGEST}, DataLoss),
    ],
)
async def test_what_cannot_be_served_is_refused_and_leaves_nothing(
    world: BlockWorld, change: dict[str, object], error: type[Exception]
) -> None:
    told = replace(world.description(await world.put(DISK), SIZE), **change)  # type: ignore[arg-type]
    with pytest.raises(error):
        await world.attachments.attach(told, None)
    assert world.attachments.page("", 10) == []
    assert os.listdir(world.folder / "attachments") == []
    assert os.listdir(world.folder / "nbd") == []


async def test_a_wrong_key_or_none_is_refused(world: BlockWorld) -> None:
    key = cipher()
    manifest_id = await world.put(DISK, cipher=key)
    with pytest.raises(DataLoss):
        await world.attachments.attach(world.description(manifest_id, SIZE), None)
    other = type(key)(bytes(32), key.binding)
    with pytest.raises(DataLoss) as refused:
        await world.attachments.attach(world.description(manifest_id, SIZE, cipher=other), other)
    assert refused.value.reason == "KEY_MISMATCH"
    plain = await world.put(DISK)
    with pytest.raises(DataLoss):
        await world.attachments.attach(world.description(plain, SIZE, cipher=key), key)


async def test_a_path_that_is_too_long_for_a_socket_is_refused(world: BlockWorld) -> None:
    told = world.description(await world.put(DISK), SIZE, "i" * 64)
    world.attachments._rules = replace(
        world.attachments._rules,
        sockets=replace(world.attachments._rules.sockets, folder=world.folder / ("f" * 60)),
    )
    with pytest.raises(InvalidRequest, match="107 bytes"):
        await world.attachments.attach(told, None)


async def test_no_more_disks_are_attached_than_may_be(unstarted: BlockWorld) -> None:
    unstarted.max_attachments = 2
    async with started(unstarted) as world:
        await world.attach(DISK, "a1")
        await world.attach(DISK, "a2")
        with pytest.raises(LimitExceeded):
            await world.attach(DISK, "a3")
        await world.attachments.detach("a1", force=False)
        await world.attach(DISK, "a3")


async def test_plain_disks_are_served_again_after_a_restart_encrypted_ones_with_their_key(
    world: BlockWorld,
) -> None:
    await world.attach(DISK)
    secret = await world.attach(DISK, "secret", cipher())
    socket = world.socket()
    await world.restart()
    assert world.socket() == socket
    async with reading(socket) as client:
        assert await client.read(0, SIZE) == CONTENT
    waiting = world.attachments.get("secret")
    assert (waiting.state, waiting.socket_path) == (State.WAITING_FOR_KEY, "")
    await world.attachments.attach(secret.description, cipher())
    async with reading(world.socket("secret")) as client:
        assert await client.read(0, SIZE) == CONTENT
    await world.attachments.detach("secret", force=False)
    await world.restart()
    assert [each.description.attachment_id for each in world.attachments.page("", 10)] == ["a1"]


async def test_no_key_is_in_any_file(world: BlockWorld) -> None:
    await world.attach(DISK, cipher=cipher())
    async with reading(world.socket()) as client:
        await client.read(0, SIZE)
    await world.stop()
    files = [path for path in world.folder.rglob("*") if path.is_file()]
    assert len(files) > 2
    assert not [path for path in files if DATA_KEY in path.read_bytes()]
    await world.start()


async def test_a_restart_while_the_store_is_away_serves_when_it_is_back(world: BlockWorld) -> None:
    await world.attach(DISK)
    world.store.is_down = True
    await world.restart()
    assert world.attachments.get("a1").state is State.OPENING
    async with reading(world.socket()) as client:
        cookie = client.send(READ, 0, 4096)
        await asyncio.sleep(0.2)
        world.store.is_down = False
        assert (await client.answers({cookie: (READ, 0, 4096)}))[cookie].data == CONTENT[:4096]
    await until_ready(world)


async def test_an_attach_is_answered_though_the_store_is_away(
    world: BlockWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attachments, "OPEN_SECONDS", 0.2)
    manifest_id = await world.put(DISK)
    world.store.is_down = True
    attachment = await world.attach_manifest(manifest_id, SIZE)
    assert (attachment.state, bool(attachment.socket_path)) == (State.OPENING, True)
    world.store.is_down = False
    await until_ready(world)


async def test_a_disk_whose_manifest_is_gone_after_a_restart_has_failed(world: BlockWorld) -> None:
    attachment = await world.attach(DISK)
    blob = f"manifests/{attachment.description.manifest_id}/content"
    await world.store.delete(blob)  # type: ignore[arg-type]
    await world.restart()
    await until_it_is(State.FAILED, world)
    assert "missing" in world.attachments.get("a1").failure
    async with connected(world.socket()) as client:
        await client.go()
        assert (await client.ask(READ, 0, 4096)).error == 5


@pytest.mark.parametrize("left", [b"", b"{", b"[]", b'{"digest": "a1"}', b"\xff\xfe"])
async def test_a_description_that_is_none_keeps_nothing_else_from_coming_back(
    world: BlockWorld, left: bytes
) -> None:
    await world.attach(DISK, "a2")
    (world.folder / "attachments" / "a1.json").write_bytes(left)
    await world.restart()
    assert [each.description.attachment_id for each in world.attachments.page("", 10)] == ["a2"]


async def test_a_disk_moves_to_another_store_under_its_clients(world: BlockWorld) -> None:
    attachment = await world.attach(DISK)
    moved = await world.put(DISK, "other")
    async with reading(world.socket()) as client:
        assert await client.read(0, MIB) == CONTENT[:MIB]
        asked = {client.send(READ, at, MIB): (READ, at, MIB) for at in range(0, SIZE, MIB)}
        told = replace(attachment.description, store="other", manifest_id=moved)
        assert await world.attachments.attach(told, None) is attachment
        for cookie, answer in (await client.answers(asked)).items():
            _, start, length = asked[cookie]
            assert (answer.error, bytes(answer.data)) == (0, CONTENT[start : start + length])
        world.store.is_down = True
        world.store.reads.clear()
        assert await client.read(0, SIZE) == CONTENT
    await world.restart()
    assert world.attachments.get("a1").description == told


async def test_a_move_to_another_disk_is_refused(world: BlockWorld) -> None:
    attachment = await world.attach(DISK)
    other = await world.put(mixed_disk(SIZE), "other")
    different = await world.put(OTHER)
    assert other != different
    claimed = replace(attachment.description, manifest_id=different)
    with pytest.raises(DataLoss, match="that of a disk"):
        await world.attachments.attach(claimed, None)
    with pytest.raises(Conflict):
        await world.attachments.attach(replace(claimed, digest=world.digests[different]), None)
    async with reading(world.socket()) as client:
        assert await client.read(0, SIZE) == CONTENT


async def test_a_disk_that_has_failed_is_served_when_it_is_attached_again_and_its_store_mended(
    world: BlockWorld,
) -> None:
    """The file system of a store that was not mounted at the start, say."""
    told = (await world.attach(DISK)).description
    manifest = [blob.id async for blob in world.store.inner.list("manifests/")]
    kept = {blob: await get(world.store.inner, blob) for blob in manifest}
    await world.stop()
    shutil.rmtree(world.folder / "cache")
    for blob in kept:
        await world.store.inner.delete(blob)
    await world.start()
    await until_it_is(State.FAILED, world)
    with pytest.raises(DataLoss):
        await world.attachments.attach(told, None)
    for blob, content in kept.items():
        await put(world.store.inner, blob, content)
    attachment = await world.attachments.attach(told, None)
    assert (attachment.state, attachment.failure) == (State.READY, "")
    async with reading(world.socket()) as client:
        assert await client.read(0, 512) == CONTENT[:512]


async def test_one_whose_socket_cannot_be_made_is_not_there_after_a_restart(world: BlockWorld) -> None:
    os.rmdir(world.folder / "nbd")
    with pytest.raises(Unavailable, match="socket"):
        await world.attach(DISK)
    assert os.listdir(world.folder / "attachments") == []


async def test_what_another_manifest_has_supplanted_is_not_served_until_it_is_back(
    world: BlockWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disks, "DISTRUST_SECONDS", 0.0)
    told = (await world.attach(DISK)).description
    sound = (await world.attach(DISK, "a2")).description
    await world.stop()
    shutil.rmtree(world.folder / "cache")
    kept = await world.put(DISK)
    await world.supplant(told.manifest_id, by=await world.put(OTHER))
    await world.start()
    await until_it_is(State.FAILED, world)
    assert f"not {told.digest}" in world.attachments.get("a1").failure
    async with connected(world.socket()) as client:
        await client.go()
        assert (await client.ask(READ, 0, 4096)).error == 5
    with pytest.raises(DataLoss, match="that of a disk"):
        await world.attachments.attach(told, None)
    await until_it_is(State.READY, world, "a2")
    assert (await world.attachments.attach(sound, None)).state is State.READY
    async with reading(world.socket("a2")) as client:
        assert await client.read(0, SIZE) == CONTENT
    moved = replace(told, manifest_id=kept)
    assert (await world.attachments.attach(moved, None)).state is State.READY
    async with reading(world.socket()) as client:
        assert await client.read(0, SIZE) == CONTENT


async def test_an_older_manifest_of_an_encrypted_image_is_not_served(world: BlockWorld) -> None:
    told = (await world.attach(DISK, cipher=cipher())).description
    older = await world.put(OTHER, cipher=cipher())
    assert told.digest.startswith("b3k:")
    await world.stop()
    shutil.rmtree(world.folder / "cache")
    await world.supplant(told.manifest_id, by=older)
    await world.start()
    with pytest.raises(DataLoss, match=f"not {told.digest}"):
        await world.attachments.attach(told, cipher())
    assert world.attachments.get("a1").state is State.WAITING_FOR_KEY


async def test_who_claims_another_disk_of_a_manifest_is_refused_though_it_is_open(world: BlockWorld) -> None:
    told = (await world.attach(DISK)).description
    for change, error in (({"digest": NO_DIGEST}, DataLoss), ({"size_bytes": 4096}, FailedPrecondition)):
        with pytest.raises(error):
            await world.attachments.attach(replace(told, attachment_id="a2", **change), None)
    again = await world.attachments.attach(replace(told, attachment_id="a3", export_name="x"), None)
    assert again.disk is world.attachments.get("a1").disk


async def test_a_description_of_an_earlier_release_is_forgotten(world: BlockWorld) -> None:
    told = (await world.attach(DISK)).description
    await world.attach(DISK, "a2")
    file = world.folder / "attachments" / "a1.json"
    file.write_text(json.dumps({name: value for name, value in asdict(told).items() if name != "digest"}))
    await world.restart()
    assert [each.description.attachment_id for each in world.attachments.page("", 10)] == ["a2"]
    assert not file.exists()
    assert (await world.attachments.attach(told, None)).state is State.READY
