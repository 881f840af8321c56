"""How many calls run at once: of one caller, of all of them, and of the administrator."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from imsd.contract import LimitExceeded
from imsd.core.caller import Caller, CallerKind
from imsd.grpc_server.call_places import MAX_CALLS_OF_ONE, MAX_CALLS_OF_OTHERS, CallPlaces

ADMINISTRATOR = Caller(kind=CallerKind.LOCAL_ADMINISTRATOR, id="local")


def user(name: str, kind: CallerKind = CallerKind.API_TOKEN, token_id: str = "") -> Caller:
    return Caller(kind=kind, id=name, token_id=token_id)


def fill(places: CallPlaces, calls: ExitStack, caller: Caller, count: int = MAX_CALLS_OF_ONE) -> None:
    for _ in range(count):
        calls.enter_context(places.taken(caller))


def is_let_in(places: CallPlaces, caller: Caller) -> bool:
    try:
        with places.taken(caller):
            return True
    except LimitExceeded:
        return False


def test_a_caller_takes_so_many_places_and_leaves_the_others() -> None:
    places = CallPlaces()
    with ExitStack() as calls:
        fill(places, calls, user("ann"))
        with pytest.raises(LimitExceeded, match="64 calls of ann run already"), places.taken(user("ann")):
            pass
        assert is_let_in(places, user("bob"))
    assert is_let_in(places, user("ann"))


def test_all_tokens_of_a_user_count_together_and_a_certificate_alone() -> None:
    places = CallPlaces()
    with ExitStack() as calls:
        fill(places, calls, user("ann", token_id="1"), MAX_CALLS_OF_ONE // 2)
        fill(places, calls, user("ann", CallerKind.OIDC), MAX_CALLS_OF_ONE // 2)
        assert not is_let_in(places, user("ann", token_id="2"))
        assert is_let_in(places, user("ann", CallerKind.CERTIFICATE))


def test_a_call_that_is_refused_takes_no_place() -> None:
    places = CallPlaces()
    with ExitStack() as calls:
        fill(places, calls, user("ann"), MAX_CALLS_OF_ONE - 1)
        with places.taken(user("ann")):
            assert not any(is_let_in(places, user("ann")) for _ in range(10))
        assert is_let_in(places, user("ann"))


def test_a_call_that_fails_gives_its_place_back() -> None:
    places = CallPlaces()
    for _ in range(MAX_CALLS_OF_ONE + 1):
        with pytest.raises(ValueError, match="by the call"), places.taken(user("ann")):
            raise ValueError("by the call")


def test_the_administrator_always_gets_in() -> None:
    places = CallPlaces()
    with ExitStack() as calls:
        fill(places, calls, ADMINISTRATOR, MAX_CALLS_OF_OTHERS)
        assert is_let_in(places, user("ann"))  # it takes no place of the others
        for number in range(MAX_CALLS_OF_OTHERS):
            calls.enter_context(places.taken(user(f"user-{number}")))
        assert not is_let_in(places, user("one-more"))
        assert is_let_in(places, ADMINISTRATOR)
