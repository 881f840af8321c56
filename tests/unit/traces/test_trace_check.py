"""Every way to tamper with a chain is seen: by the hashes, by the links, or by the seals."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imsd.trace_chain import GENESIS, Seal, Trace
from imsd.trace_check import MAX_PROBLEMS, ChainCheck, Link
from tests.unit.traces.samples_of_traces import (
    OTHER_KEY,
    a_chain,
    a_removal,
    a_seal,
    a_trace,
    at,
    checked,
    rechained,
)


def test_a_chain_that_nobody_touched_is_intact() -> None:
    chain = a_chain(5)
    check = checked(chain, [a_seal(chain[1]), a_seal(chain[4])])
    assert check.is_intact
    assert (check.traces_checked, check.seals_checked) == (5, 2)
    assert (check.first_sequence, check.last_sequence, check.sealed_sequence) == (1, 5, 5)


def test_a_chain_that_never_began_is_intact() -> None:
    check = checked([])
    assert check.is_intact
    assert (check.traces_checked, check.first_sequence, check.last_sequence) == (0, 0, 0)


def test_an_altered_trace_is_named() -> None:
    chain = a_chain(3)
    chain[1] = replace(chain[1], caller_id="bob")
    assert checked(chain).problems == ["trace 2 was altered: its hash is not that of its content"]


def test_an_altered_trace_with_its_hash_made_anew_does_not_fit_the_next() -> None:
    chain = a_chain(3)
    chain[1] = replace(chain[1], caller_id="bob").chained(2, chain[0].hash)
    assert checked(chain).problems == ["trace 3 does not follow from trace 2: one of them was changed"]


def test_hashes_that_were_all_made_anew_are_betrayed_by_the_seal() -> None:
    chain = a_chain(4)
    seals = [a_seal(chain[0]), a_seal(chain[3])]
    forged = rechained([chain[0], replace(chain[1], caller_id="bob"), *chain[2:]])
    (problem,) = checked(forged, seals).problems
    assert problem.startswith("trace 4 is not what was sealed")


def test_a_trace_removed_from_the_middle_is_missing() -> None:
    chain = a_chain(4)
    assert checked([chain[0], chain[2], chain[3]]).problems == ["trace 2 is missing"]
    assert checked([chain[0], chain[3]]).problems == ["traces 2 to 3 are missing"]


def test_a_trace_removed_with_the_numbers_made_anew_is_betrayed_by_the_seal() -> None:
    chain = a_chain(4)
    forged = rechained([chain[0], *chain[2:]])
    problems = checked(forged, [a_seal(chain[3])]).problems
    assert problems[0] == "trace 4 is missing, and the last was sealed"


def test_traces_that_changed_places_are_seen() -> None:
    chain = a_chain(3)
    swapped = [chain[0], replace(chain[2], sequence=2), replace(chain[1], sequence=3)]
    assert "trace 2 was altered: its hash is not that of its content" in checked(swapped).problems
    assert checked([chain[0], chain[2], chain[1]]).problems[-1].startswith("trace 2 stands after trace 3")


def test_a_repeated_trace_is_seen() -> None:
    chain = a_chain(2)
    assert checked([*chain, chain[1]]).problems[0].startswith("trace 2 stands after trace 2")


def test_an_end_that_was_cut_off_is_missed() -> None:
    chain = a_chain(4)
    head = (4, chain[3].hash)
    assert checked(chain[:2], head=head).problems == ["traces 3 to 4 are missing at the end"]
    check = checked(chain[:2], [a_seal(chain[2])], head=(2, chain[1].hash))
    assert check.problems[0] == "trace 3 is missing, and the last was sealed"


def test_an_end_that_was_exchanged_is_seen() -> None:
    chain = a_chain(2)
    assert checked(chain, head=(2, GENESIS)).problems == ["trace 2 is not the one that was written last"]


def test_a_beginning_that_was_removed_needs_a_seal_and_a_trace_that_says_so() -> None:
    chain = a_chain(4)
    removal = a_removal(2).chained(5, chain[-1].hash)
    assert checked([*chain[2:], removal], [a_seal(chain[1])]).is_intact
    assert checked([*chain[2:], removal]).problems == [
        "what came before trace 3 is missing, and no seal stands for it"
    ]
    assert checked([*chain[2:], removal], [a_seal(chain[0])]).problems == ["trace 2 is missing"]
    assert checked([chain[3], removal], [a_seal(chain[2])]).problems == [
        "traces 1 to 3 are missing, and no trace tells of their removal"
    ]
    # Whose call it was does not matter: only the daemon leaves a trace of this name.
    named = a_trace(details={"up_to": "2"}).chained(5, chain[-1].hash)
    assert not checked([*chain[2:], named], [a_seal(chain[1])]).is_intact


def test_a_part_may_begin_anywhere() -> None:
    check = ChainCheck(None, is_part=True)
    for trace in a_chain(4)[2:]:
        check.add(Link.of(trace.fields()))
    assert check.is_intact


def test_all_of_a_chain_never_goes() -> None:
    chain = a_chain(3)
    head = (3, chain[2].hash)
    assert checked([], [], head).problems == ["traces 1 to 3 are missing at the end"]
    assert not checked([], [a_seal(chain[2])], head).is_intact


def test_a_first_trace_has_none_before_it() -> None:
    stranger = a_trace().chained(1, "ab" * 32)
    assert checked([stranger]).problems == ["trace 1 claims that another came before it"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"mac": "0" * 64}, "the seal of trace 2 is forged"),
        ({"sealed_at": at(99)}, "the seal of trace 2 is forged"),
        ({"key_id": OTHER_KEY.id}, f"the seal of trace 2 was made with another key, {OTHER_KEY.id}"),
    ],
)
def test_a_forged_seal_is_seen(change: dict[str, object], problem: str) -> None:
    chain = a_chain(3)
    check = checked(chain, [replace(a_seal(chain[1]), **change)])  # type: ignore[arg-type]
    assert check.problems == [problem]
    assert check.sealed_sequence == 0


def test_a_seal_of_another_chain_counts_for_nothing() -> None:
    chain, other = a_chain(2), a_chain(2, project_id="other")
    moved = replace(a_seal(other[1]), project_id="lab", hash=chain[1].hash)
    assert checked(chain, [moved]).problems == ["the seal of trace 2 is forged"]


def test_seals_that_were_removed_are_missed_once_the_traces_are_old() -> None:
    chain = a_chain(4)
    check = checked(chain, [a_seal(chain[1])])
    check.require_seal(at(3))
    assert check.is_intact
    check.require_seal(at(3.5))
    assert check.problems == ["trace 3 and later ones bear no seal, though they are old enough"]


def test_problems_are_counted_but_not_all_are_kept() -> None:
    chain = [replace(trace, caller_id="bob") for trace in a_chain(MAX_PROBLEMS + 50)]
    check = checked(chain)
    assert len(check.problems) == MAX_PROBLEMS
    assert check.problem_count == MAX_PROBLEMS + 50


HISTORIES = st.lists(st.sampled_from(["createImage", "updateImage", "deleteImage"]), min_size=2, max_size=12)


def sealed_history(names: list[str], seal_every: int, *more: Trace) -> tuple[list[Trace], list[Seal]]:
    chain = rechained([*(a_trace(name=name, time=at(number)) for number, name in enumerate(names)), *more])
    seals = [a_seal(trace) for trace in chain if trace.sequence % seal_every == 0 or trace is chain[-1]]
    return chain, seals


@given(names=HISTORIES, seal_every=st.integers(1, 5))
def test_any_history_is_intact_and_stays_so_when_its_beginning_goes_up_to_a_seal(
    names: list[str], seal_every: int
) -> None:
    up_to = len(names) // seal_every * seal_every
    chain, seals = sealed_history(names, seal_every, a_removal(up_to))
    assert checked(chain, seals).is_intact
    for seal in seals[:-1]:
        left = [trace for trace in chain if trace.sequence > seal.sequence]
        kept = [each for each in seals if each.sequence >= seal.sequence]
        assert checked(left, kept, head=(len(chain), chain[-1].hash)).is_intact


@given(data=st.data(), names=HISTORIES, seal_every=st.integers(1, 5))
def test_whatever_is_done_to_any_history_is_seen(
    data: st.DataObject, names: list[str], seal_every: int
) -> None:
    chain, seals = sealed_history(names, seal_every)
    head = (len(chain), chain[-1].hash)
    place = data.draw(st.integers(0, len(chain) - 1))
    forged = list(chain)
    match data.draw(st.sampled_from(["alter", "remove", "swap", "insert", "cut"])):
        case "alter":
            forged[place] = replace(forged[place], caller_id="mallory")
        case "remove":
            del forged[place]
        case "swap":
            other = data.draw(st.integers(0, len(chain) - 1).filter(lambda number: number != place))
            forged[place], forged[other] = forged[other], forged[place]
        case "insert":
            forged.insert(place, a_trace(caller_id="mallory"))
        case "cut":
            forged = forged[:place]
    if data.draw(st.booleans()):  # by somebody who knows how hashes are made
        forged = rechained(forged)
        head = (len(forged), forged[-1].hash if forged else GENESIS)
    assert not checked(forged, seals, head).is_intact
