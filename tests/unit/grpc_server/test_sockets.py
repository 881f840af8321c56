"""What may stand in the way of a socket, and what the daemon says about it."""

import os
import socket
from pathlib import Path

import pytest

from imsd.contract import InvalidRequest
from imsd.grpc_server.server import _clear_stale_socket


def listening(path: Path, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    found = socket.socket(socket.AF_UNIX, kind)
    found.bind(str(path))
    return found


def refusal(path: Path) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        _clear_stale_socket(str(path))
    assert refused.value.reason == "INVALID_CONFIGURATION"
    return refused.value


def test_a_socket_nobody_answers_on_is_removed(tmp_path: Path) -> None:
    listening(tmp_path / "s").close()
    _clear_stale_socket(str(tmp_path / "s"))
    assert not (tmp_path / "s").exists()


def test_a_living_socket_is_left_alone(tmp_path: Path) -> None:
    with listening(tmp_path / "s") as living:
        living.listen()
        assert "another daemon" in refusal(tmp_path / "s").message
    assert (tmp_path / "s").exists()


def test_a_socket_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    with listening(tmp_path / "s", socket.SOCK_DGRAM):
        refusal(tmp_path / "s")
    assert (tmp_path / "s").exists()


def test_a_socket_whose_owner_does_not_answer_is_left_alone(tmp_path: Path) -> None:
    with listening(tmp_path / "s") as busy, socket.socket(socket.AF_UNIX) as first:
        busy.listen(0)
        first.connect(str(tmp_path / "s"))  # the queue is full now
        refusal(tmp_path / "s")
    assert (tmp_path / "s").exists()


def test_a_file_in_place_of_a_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    refusal(tmp_path / "s")
    assert (tmp_path / "s").read_text() == "precious"


def test_a_folder_that_cannot_be_made_is_a_wrong_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refusal(tmp_path / "file" / "s")
    assert os.listdir(tmp_path) == ["file"]
