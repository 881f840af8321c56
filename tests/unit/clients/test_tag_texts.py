"""Tags as the calls of the hosted service write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ims_client import tag_from_text, tag_to_text

KEYS = st.text(st.characters(categories=["L", "N"], include_characters="_-"), min_size=1, max_size=36)
VALUES = st.text(st.characters(categories=["L", "N"], include_characters="_-."), max_size=43)


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("stage.live", ("stage", "live")),
        ("version.1.0.2", ("version", "1.0.2")),
        ("stage", ("stage", "")),
        ("stage.", ("stage", "")),
        ("阶段.生产", ("阶段", "生产")),
    ],
)
def test_the_first_dot_splits(text: str, tag: tuple[str, str]) -> None:
    assert tag_from_text(text) == tag


def test_a_list_of_tags_has_an_equals_sign() -> None:
    assert tag_to_text("stage", "live", "=") == "stage=live"


@given(KEYS, VALUES)
def test_what_is_written_is_read_again(key: str, value: str) -> None:
    assert tag_from_text(tag_to_text(key, value)) == (key, value)
