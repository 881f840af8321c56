from datetime import UTC, datetime

import pytest

from imsd.contract import InvalidRequest
from imsd.core.page_token import PageTokens

TOKENS = PageTokens(b"s" * 32)
QUERY = ("project", "name")


@pytest.mark.parametrize("value", ["web", 17, datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)])
def test_a_token_brings_its_marker_back(value: str | int | datetime) -> None:
    token = TOKENS.make(QUERY, (value, "id-1"))
    assert TOKENS.read(QUERY, token) == (value, "id-1")


def test_no_token_is_the_first_page() -> None:
    assert TOKENS.read(QUERY, "") is None


@pytest.mark.parametrize("other", [("other", "name"), ("project", "size")])
def test_a_token_is_good_for_its_query_only(other: tuple[str, str]) -> None:
    token = TOKENS.make(QUERY, ("web", "id-1"))
    with pytest.raises(InvalidRequest) as refused:
        TOKENS.read(other, token)
    assert refused.value.reason == "INVALID_PAGE_TOKEN"


@pytest.mark.parametrize("token", ["x", "AAAA", "é", "A" * 64, "%%%", "=" * 9])
def test_an_invented_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidRequest):
        TOKENS.read(QUERY, token)


def test_every_altered_character_is_noticed() -> None:
    token = TOKENS.make(QUERY, ("web", "id-1"))
    for place, letter in enumerate(token.rstrip("=")[:-1]):
        altered = token[:place] + ("A" if letter != "A" else "B") + token[place + 1 :]
        with pytest.raises(InvalidRequest):
            TOKENS.read(QUERY, altered)


def test_another_service_s_token_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        PageTokens(b"t" * 32).read(QUERY, TOKENS.make(QUERY, ("web", "id-1")))
