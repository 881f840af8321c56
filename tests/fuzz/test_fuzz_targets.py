"""Every target for a few seconds, in a process of its own; and that its checks see what they are for."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from ast import literal_eval
from mmap import mmap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import format_targets, guest_targets, nbd_targets, target
from tests.fuzz.mutation import damage
from tests.fuzz.sparse_form import MAX_FILE_BYTES, compact, expand
from tests.fuzz.target import ACCEPTED, Answer, Target, check
from tests.unit.formats.disk_files import noise

# Of each of about thirty targets, and of two processes at once.
SECONDS = 5
# The suite must not pass or fail by luck: it damages files in the same way every time. `make fuzz` does not.
SEED = 1
LEAST_INPUTS = 50

PROGRAM = Path(__file__).with_name("coverage_fuzz.py")
CORPUS = Path(__file__).with_name("corpus")
TARGETS = {**format_targets.TARGETS, **guest_targets.TARGETS, **nbd_targets.TARGETS}
COMMITTED = [(path.parent.name, path) for path in sorted(CORPUS.glob("*/*"))]


def run(name: str, corpus: Path, *options: str | Path, seconds: int = SECONDS) -> dict[str, int]:
    """How the inputs of a target ended."""
    limits = ("--seconds", str(seconds), "--seed", str(SEED))
    command = [sys.executable, PROGRAM, name, *limits, "--corpus", corpus, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, f"{done.stdout}{done.stderr[-8000:]}"
    found = re.search(rf"^{name}: \d+ inputs, \d+ a second: (.*)$", done.stdout, re.MULTILINE)
    assert found, done.stdout
    endings: dict[str, int] = literal_eval(found[1])
    return endings


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_damaged_is_read_or_refused(name: str, tmp_path: Path) -> None:
    endings = run(name, tmp_path)
    assert sum(endings.values()) >= LEAST_INPUTS
    assert endings.pop(ACCEPTED) > 0
    assert sum(endings.values()) > 0


def test_files_are_damaged_by_chance_where_coverage_is_not_to_be_had(tmp_path: Path) -> None:
    endings = run("qcow2", tmp_path, "--by-chance", seconds=1)
    assert {ACCEPTED, "IMAGE_MALFORMED", "IMAGE_TRUNCATED"} <= set(endings)


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_damaged_is_sound_before(name: str) -> None:
    seeds = list(TARGETS[name].seeds())
    endings = [check(TARGETS[name], seed) for seed in seeds]
    assert ACCEPTED in endings
    if name not in {"detection", "guest-inspect"}:  # some of their files are two things, or no system
        assert set(endings) == {ACCEPTED}


def test_what_was_found_once_stays_mended() -> None:
    assert [
        path for name, path in COMMITTED if not check(TARGETS[name], bytes(expand(path.read_bytes())))
    ] == []


def test_every_folder_of_the_corpus_is_of_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir() if path.is_dir()} <= set(TARGETS)


def test_an_answer_that_takes_long_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "MAX_CPU_SECONDS", 0.01)
    slow = Target("slow", list, lambda file, chosen: Answer(ACCEPTED, sum(range(5_000_000))))
    with pytest.raises(AssertionError, match="of the processor"):
        check(slow, b"file")


def test_an_answer_that_takes_memory_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "MAX_MEMORY_BYTES", 32 << 20)

    def greedy(file: bytes, chosen: random.Random) -> Answer:
        with mmap(-1, 64 << 20) as memory:  # of its own: the heap may have so much left
            return Answer(ACCEPTED, memory.write(b"x" * len(memory)))

    with pytest.raises(AssertionError, match="MiB"):
        check(Target("greedy", list, greedy), b"file")


def test_two_answers_to_one_file_are_noticed() -> None:
    moody = Target("moody", list, lambda file, chosen: Answer(ACCEPTED, chosen.random()))
    with pytest.raises(AssertionError, match="two answers"):
        assert [check(moody, b"%d" % number) for number in range(100)] == []


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 1 << 17), st.binary(min_size=1, max_size=700)), max_size=5),
    st.integers(0, 1 << 17),
)
def test_the_sparse_form_is_the_file(pieces: list[tuple[int, bytes]], size: int) -> None:
    file = bytearray(size)
    for offset, content in pieces:
        file[offset : offset + len(content)] = content
    assert expand(compact(file)) == file


@settings(max_examples=200)
@given(st.binary(max_size=2000))
def test_any_bytes_are_the_form_of_a_file(form: bytes) -> None:
    file = expand(form)
    assert len(file) <= MAX_FILE_BYTES
    assert expand(compact(file)) == file


@settings(max_examples=100)
@given(st.integers(0, 1 << 60), st.sampled_from([0, 1, 511, 512, 5000, 70_000]))
def test_damage_is_the_same_for_the_same_seed(seed: int, size: int) -> None:
    changed = [damage(random.Random(seed), bytearray(noise(size, 1))) for _ in range(2)]
    assert changed[0] == changed[1]


def test_damage_reaches_all_of_a_small_file() -> None:
    sound = noise(2048, 1)
    touched = set()
    for seed in range(4000):
        changed = damage(random.Random(seed), bytearray(sound))
        if len(changed) == len(sound):
            touched |= {place for place in range(len(sound)) if changed[place] != sound[place]}
    assert touched == set(range(len(sound)))
