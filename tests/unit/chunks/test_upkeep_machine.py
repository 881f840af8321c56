"""Nothing referenced is ever lost, nothing unreferenced stays, whatever is done for stores: `upkeep_machine`.

`IMSD_MACHINE_EXAMPLES` makes it look further: 10 take a quarter of a minute, 10,000 a night.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import Connection, Table, delete, exists, select
from sqlalchemy.exc import SQLAlchemyError

from imsd.chunks.index import Holder, HolderKind, Location
from imsd.contract import ImsError
from imsd.metadata import chunk_rows
from imsd.metadata.tables import manifest, manifest_holder, pack_reference
from tests.unit.chunks.upkeep_machine import OTHER, UpkeepJob, UpkeepMachine

EXAMPLES = int(os.environ.get("IMSD_MACHINE_EXAMPLES", "8"))

MET = {"an image was published", "a sweep freed something", "images were repacked"}


def test_nothing_is_lost_and_nothing_stays_whatever_is_done_for_stores() -> None:
    run_state_machine_as_test(
        UpkeepMachine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
            suppress_health_check=list(HealthCheck),
            deadline=None,
        ),
    )
    assert UpkeepMachine.happened.keys() >= MET


# -- the same, at every step of one thing --------------------------------------------------------------


@contextmanager
def a_world() -> Iterator[UpkeepMachine]:
    """A machine whose end is checked."""
    world = UpkeepMachine()
    try:
        yield world
    except BaseException:
        world.close()
        raise
    world.teardown()


@contextmanager
def half_dead() -> Iterator[UpkeepMachine]:
    """A pack of which one piece is needed, by an image that a reader has open."""
    with a_world() as world:
        world.leave_a_pack_mostly_dead(0)
        world.open_reader(0)
        yield world


def begun(world: UpkeepMachine, steps: int) -> UpkeepJob:
    job = world.begin_upkeep(world.repack)
    world.loop.run_until_complete(job.runs[0].step(steps))
    return job


def finish(world: UpkeepMachine, job: UpkeepJob) -> None:
    for actor in job.runs:
        world.loop.run_until_complete(actor.finish())
        world.check_task(actor)


def sweep_meanwhile(world: UpkeepMachine, job: UpkeepJob) -> None:
    world.sweep_at_once()
    world.nothing_referenced_is_lost()
    finish(world, job)


def delete_meanwhile(world: UpkeepMachine, job: UpkeepJob) -> None:
    world.delete_image(0)
    world.sweep_at_once()
    world.nothing_referenced_is_lost()
    finish(world, job)


def import_meanwhile(world: UpkeepMachine, job: UpkeepJob) -> None:
    world.import_at_once([0, 4, 1])
    world.sweep_at_once()
    finish(world, job)
    world.read_and_close()
    world.sweep_at_once()


def crash_and_begin_again(world: UpkeepMachine, job: UpkeepJob) -> None:
    world.loop.run_until_complete(job.runs[0].kill())
    world.sweep_at_once()
    if world.is_current(job.holder):
        world.take_over(0)
    finish(world, job)


def go_on_as_a_zombie(world: UpkeepMachine, job: UpkeepJob) -> None:
    if world.is_current(job.holder):
        world.take_over(0)
    world.sweep_at_once()
    finish(world, job)


@pytest.mark.parametrize(
    "meanwhile",
    [sweep_meanwhile, delete_meanwhile, import_meanwhile, crash_and_begin_again, go_on_as_a_zombie],
)
def test_a_repacking_that_stands_at_any_step_loses_nothing(
    meanwhile: Callable[[UpkeepMachine, UpkeepJob], None],
) -> None:
    reached = set()
    before = UpkeepMachine.happened["images were repacked"]
    for steps in (*range(0, 60, 8), 400):
        with half_dead() as world:
            job = begun(world, steps)
            reached.add(world.is_current(job.holder))
            meanwhile(world, job)
    assert reached == {True, False}  # from the first call to the last
    assert UpkeepMachine.happened["images were repacked"] > before


def test_an_image_moves_while_it_is_read_copied_and_swept() -> None:
    for steps in range(0, 40, 8):
        with half_dead() as world:
            world.start_move(0, steps)
            world.copy_image(0)
            world.sweep_at_once()
            for actor in world.actors():
                world.loop.run_until_complete(actor.finish())
                world.check_task(actor)
            world.start_walk(OTHER, 0)


# -- the machine sees what is wrong -------------------------------------------------------------------

FIND = chunk_rows.find
NOBODY = chunk_rows._is_held_by_nobody


def find_without_holding(
    c: Connection, holder: Holder, store: str, domain: str, digests: Any
) -> dict[bytes, Location]:
    """A hit is told, but nothing holds its pack."""
    theirs = (pack_reference.c.holder_kind == holder.kind, pack_reference.c.holder_id == holder.id)
    before = set(c.execute(select(pack_reference.c.pack_id).where(*theirs)).scalars())
    found = FIND(c, holder, store, domain, digests)
    fresh = {place.pack_id for place in found.values()} - before
    c.execute(delete(pack_reference).where(pack_reference.c.pack_id.in_(fresh), *theirs))
    return found


def require_nothing(c: Connection, holder: Holder) -> None:
    """Fences do not count."""


def held_by_no_image(table: Table) -> Any:
    """Readers do not count."""
    if table is not manifest:
        return NOBODY(table)
    of_others = manifest_holder.c.holder_kind != HolderKind.READER
    return ~exists().where(manifest_holder.c.manifest_id == manifest.c.id, of_others)


def give_up_an_import() -> None:
    for steps in range(0, 16, 2):
        with a_world() as world:
            actor = world.begin_import([0, 1, 2]).runs[0]
            world.loop.run_until_complete(actor.step(steps))


def sweep_during_an_import() -> None:
    for steps in range(0, 16, 2):
        with a_world() as world:
            world.import_at_once([0, 1])
            world.start_import([0, 1, 2], steps)
            world.delete_image(0)
            world.sweep_at_once()
            for actor in world.actors():
                world.loop.run_until_complete(actor.finish())
                world.check_task(actor)


def delete_what_is_read() -> None:
    with a_world() as world:
        world.leave_a_pack_mostly_dead(0)
        world.open_reader(0)
        world.delete_image(0)
        world.sweep_at_once()
        world.nothing_referenced_is_lost()


@pytest.mark.parametrize(
    ("name", "mutation", "story"),
    [
        ("find", find_without_holding, sweep_during_an_import),
        ("require_holder", require_nothing, give_up_an_import),
        ("_is_held_by_nobody", held_by_no_image, delete_what_is_read),
    ],
)
def test_a_check_that_is_left_out_is_missed(
    monkeypatch: pytest.MonkeyPatch, name: str, mutation: Any, story: Callable[[], None]
) -> None:
    story()
    monkeypatch.setattr(chunk_rows, name, mutation)
    with pytest.raises((AssertionError, ImsError, SQLAlchemyError)):
        story()
