"""Where the block server of a daemon listens."""

from __future__ import annotations

from pathlib import Path

import pytest

from imsd.config_block_server import BlockServer, block_server_places


@pytest.fixture(params=[0, 1000], ids=["root", "user"])
def user(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: request.param)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")


@pytest.mark.usefixtures("user")
def test_each_state_directory_has_sockets_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "one")
    one, two, link = (block_server_places(BlockServer(), tmp_path / name) for name in ("one", "two", "link"))
    assert one.control_socket != two.control_socket
    assert one.control_socket == link.control_socket
    assert len(str(one.control_socket.parent)) <= 50  # as long as may be: see `run_dir` in imsd/README.md


@pytest.mark.usefixtures("user")
def test_what_is_configured_holds(tmp_path: Path) -> None:
    places = block_server_places(BlockServer(run_dir=Path("/run/imsd-nbd")), tmp_path)
    assert str(places.sockets) == "/run/imsd-nbd/nbd"


def test_who_has_no_runtime_directory_gets_one_in_the_state_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert block_server_places(BlockServer(), tmp_path).control_socket == tmp_path / "nbd" / "control.sock"
