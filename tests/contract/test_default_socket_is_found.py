"""A client without an address looks where a daemon without one listens."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ims_client.address import socket_candidates

from imsd.config import default_socket, default_state_dir


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("runtime_dir", [None, "/run/user/1000"])
def test_the_default_socket_is_among_the_candidates(
    monkeypatch: pytest.MonkeyPatch, uid: int, runtime_dir: str | None
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/someone"))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    environment = {}
    if runtime_dir:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime_dir)
        environment = {"XDG_RUNTIME_DIR": runtime_dir}
    expected = default_socket(default_state_dir())
    assert socket_candidates(environment, uid, Path("/home/someone"))[0] == expected
