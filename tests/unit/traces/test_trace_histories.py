"""Any history of calls, crashes and days leaves chains that hold, with each call in them once."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imsd.metadata.database import open_database
from imsd.testing.memory_store import MemoryStore
from imsd.trace_chain import REMOVAL, Trace, TraceOutcome
from tests.unit.core.core_world import STORE, open_runtime, pool_of
from tests.unit.traces.samples_of_traces import a_trace
from tests.unit.traces.trace_world import World

PROJECTS = ("lab", "web")
RETENTION = timedelta(days=2)

STEPS = st.one_of(
    st.tuples(st.just("calls"), st.integers(1, 5)),
    st.tuples(st.just("crash"), st.integers(0, 3)),
    st.tuples(st.just("tick"), st.just(0)),
    st.tuples(st.just("stop"), st.just(0)),
    st.tuples(st.just("seconds"), st.integers(1, 20)),
    st.tuples(st.just("days"), st.integers(1, 3)),
)


class History:
    """One daemon after the other on a database; what each call was expected to leave."""

    def __init__(self, path: Path, stack: AsyncExitStack) -> None:
        self._path = path
        self._stack = stack
        self.expected: dict[str, TraceOutcome] = {}
        self.world: World | None = None

    async def start(self) -> World:
        opened = await self._stack.enter_async_context(open_database(f"sqlite+aiosqlite:///{self._path}"))
        runtime = await self._stack.enter_async_context(
            open_runtime(opened, pool_of(**{STORE: MemoryStore()}))
        )
        before, self.world = self.world, World(runtime, retention=RETENTION)
        self.world.now = before.now if before else self.world.now
        await self.world.upkeep._take_over(None)
        return self.world

    async def calls(self, world: World, count: int) -> None:
        made = await asyncio.gather(*[world.call(project_id=PROJECTS[n % 2]) for n in range(count)])
        self.expected |= {trace.id: TraceOutcome.SUCCEEDED for trace in made}

    async def crash(self, world: World, running: int) -> None:
        """``running`` calls had begun."""
        for number in range(running):
            begun = await world.recorder.begin(a_trace(project_id=PROJECTS[number % 2], time=world.now))
            self.expected[begun.id] = TraceOutcome.INTERRUPTED
        await self.start()

    async def step(self, name: str, count: int) -> None:
        world = self.world or await self.start()
        if name == "calls":
            await self.calls(world, count)
        elif name == "crash":
            await self.crash(world, count)
        elif name == "tick":
            await world.upkeep.tick()
        elif name == "stop":
            await world.upkeep.stop()
            await self.start()
        else:
            world.later(**{name: count})

    async def check(self) -> None:
        world = self.world or await self.start()
        await world.upkeep.seal()
        left: list[Trace] = []
        for project_id in PROJECTS:
            check = await world.verify(project_id)
            assert check.problems == []
            assert check.sealed_sequence == check.last_sequence
            left += await world.written(project_id)
        found = {trace.id: trace.outcome for trace in left if trace.name != REMOVAL}
        assert found.items() <= self.expected.items()
        first_kept = {trace.project_id: trace.sequence for trace in reversed(left)}
        removed = sum(max(0, first - 1) for first in first_kept.values())
        noted = {p: sum(t.name == REMOVAL for t in left if t.project_id == p) for p in PROJECTS}
        if not removed:
            assert found == self.expected
            assert not any(noted.values())
        assert await world.intents() == 0


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty database."""
    path = tmp_path_factory.mktemp("template") / "imsd.db"

    async def migrate() -> None:
        async with open_database(f"sqlite+aiosqlite:///{path}"):
            pass

    asyncio.run(migrate())
    return path


@settings(max_examples=40)
@given(steps=st.lists(STEPS, max_size=12))
def test_any_history_leaves_chains_that_hold(
    template: Path, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    path = tmp_path_factory.mktemp("history") / "imsd.db"
    shutil.copy(template, path)

    async def run() -> None:
        async with AsyncExitStack() as stack:
            history = History(path, stack)
            for name, count in steps:
                await history.step(name, count)
            await history.check()

    asyncio.run(run())
