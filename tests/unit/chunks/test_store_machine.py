"""Nothing referenced is ever lost, nothing unreferenced stays: see `store_machine`."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.unit.chunks.index_world import MemoryIndexWorld, SqlIndexWorld
from tests.unit.chunks.store_machine import StoreMachine


class MemoryMachine(StoreMachine):
    make_world = MemoryIndexWorld


class SqlMachine(StoreMachine):
    make_world = SqlIndexWorld


# What enough runs meet: fewer, slower ones not always all of it.
MAIN_EVENTS = {"an image was published", "a sweep freed something"}
EVENTS = MAIN_EVENTS | {"a run crashed", "a zombie was refused"}


@pytest.mark.parametrize(
    ("machine", "examples", "met"), [(MemoryMachine, 40, EVENTS), (SqlMachine, 5, MAIN_EVENTS)]
)
def test_nothing_referenced_is_lost_and_nothing_unreferenced_stays(
    machine: type[StoreMachine], examples: int, met: set[str]
) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert machine.happened.keys() >= met


@pytest.mark.parametrize("machine", [MemoryMachine, SqlMachine])
def test_a_deleted_image_stays_until_nobody_reads_it(machine: type[StoreMachine]) -> None:
    world = machine()
    world.import_at_once([0, 1, 2])
    world.open_reader(0)
    world.delete_image(0)
    world.sweep_at_once()
    world.read_and_close()
    assert world.blobs()
    world.sweep_at_once()
    assert not world.blobs()
    world.teardown()


# -- the same, at every step of one import or one sweep -----------------------------------------------

EVERY_STEP = [(MemoryMachine, range(30)), (SqlMachine, range(0, 30, 6))]


@pytest.mark.parametrize(("machine", "steps"), EVERY_STEP)
@pytest.mark.parametrize("is_killed", [True, False])
def test_an_import_given_up_at_any_step_leaves_nothing(
    machine: type[StoreMachine], steps: Iterable[int], is_killed: bool
) -> None:
    """Killed, or frozen and going on after everything was swept: the teardown checks."""
    published = set()
    for count in steps:
        world = machine()
        actor = world.begin_import([0, 1, 2]).runs[0]
        world.loop.run_until_complete(actor.step(count))
        if is_killed:
            world.loop.run_until_complete(actor.kill())
        published.add(len(world.images))
        world.teardown()
    assert published == {0, 1}  # the steps reach from the first call to the last


@pytest.mark.parametrize(("machine", "steps"), EVERY_STEP)
def test_an_import_during_any_step_of_a_sweep_loses_nothing(
    machine: type[StoreMachine], steps: Iterable[int]
) -> None:
    """The sweep frees an image of the very chunks that the import finds, or finds gone."""
    ended = set()
    for count in steps:
        world = machine()
        world.import_at_once([0, 1, 2])
        world.delete_image(0)
        world.start_sweep(count)
        ended.add(not world.is_sweeping())
        world.import_at_once([2, 1, 0, 3])
        world.teardown()
    assert ended == {True, False}


@pytest.mark.parametrize(("machine", "steps"), EVERY_STEP)
def test_a_sweep_during_any_step_of_an_import_loses_nothing(
    machine: type[StoreMachine], steps: Iterable[int]
) -> None:
    for count in steps:
        world = machine()
        world.import_at_once([0, 1, 2])
        world.start_import([2, 1, 3, 0], count)
        world.delete_image(0)
        world.sweep_at_once()
        for actor in world.actors():
            world.loop.run_until_complete(actor.finish())
            world.check_task(actor)
        assert len(world.images) == 1
        world.teardown()
