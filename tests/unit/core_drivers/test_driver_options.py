"""Sections of the configuration become the options of a driver."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from imsd.contract import InvalidRequest
from imsd.core.driver_options import parse_options


@dataclass(frozen=True, kw_only=True)
class Options:
    path: Path
    fsync: bool = True
    threads: int = 6
    rate: float = 1.5
    bucket: str = ""
    endpoint: str | None = None
    mode: Literal["fast", "safe"] = "safe"
    zones: tuple[str, ...] = ()
    thing: object = None

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise InvalidRequest("threads must be 1 or more", field="threads", hint="try 6")


def refusal(**values: object) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse_options(Options, values, "stores.main")
    assert caught.value.reason == "INVALID_CONFIGURATION"
    assert caught.value.message.startswith("stores.main: ")
    return caught.value


def test_values_of_a_file_keep_their_types() -> None:
    parsed = parse_options(
        Options,
        {
            "path": "/data",
            "fsync": False,
            "threads": 2,
            "rate": 3,
            "endpoint": "here",
            "mode": "fast",
            "zones": ["a", "b"],
        },
        "stores.main",
    )
    assert parsed == Options(
        path=Path("/data"), fsync=False, threads=2, rate=3.0, endpoint="here", mode="fast", zones=("a", "b")
    )


def test_texts_of_the_environment_are_understood() -> None:
    parsed = parse_options(
        Options,
        {"path": "/d", "fsync": "off", "threads": "2", "rate": "0.5", "endpoint": "", "zones": "a,b"},
        "stores.main",
    )
    assert parsed == Options(
        path=Path("/d"), fsync=False, threads=2, rate=0.5, endpoint=None, zones=("a", "b")
    )


def test_what_the_options_refuse_themselves_is_named_with_its_section() -> None:
    refused = refusal(path="/d", threads=0)
    assert refused.message == "stores.main: threads must be 1 or more"
    assert (refused.field, refused.hint) == ("stores.main.threads", "try 6")


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_options(Options, {"path": "store"}, "stores.main").path == tmp_path / "store"


def test_an_unknown_key_is_named_with_the_nearest_one() -> None:
    error = refusal(path="/d", thread=3)
    assert "unknown key 'thread'" in error.message
    assert error.hint == "did you mean threads?"
    assert error.field == "stores.main.thread"
    assert "the keys are path, " in refusal(path="/d", zzz=3).hint


def test_a_missing_key_is_named() -> None:
    assert refusal(threads=3).message == "stores.main: path is missing"


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("path", 3, "a path"),
        ("path", "", "a path"),
        ("path", "a\0b", "a path"),
        ("fsync", 1, "true or false"),
        ("fsync", "maybe", "true or false"),
        ("threads", True, "a whole number"),
        ("threads", 1.5, "a whole number"),
        ("threads", "many", "a whole number"),
        ("rate", True, "a number"),
        ("rate", "fast", "a number"),
        ("rate", [], "a number"),
        ("bucket", 3, "a text"),
        ("endpoint", 3, "a text"),
        ("mode", "slow", "one of fast, safe"),
        ("zones", 3, "a list"),
        ("zones", [3], "a text"),
        ("thing", 3, "a defect of the driver"),
    ],
)
def test_a_value_of_another_type_is_refused(key: str, value: object, wanted: str) -> None:
    error = refusal(**({"path": "/d"} | {key: value}))
    assert f"{key} must be " in error.message
    assert wanted in error.message
