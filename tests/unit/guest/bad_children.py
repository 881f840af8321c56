"""What an inspecting process might do once a disk has taken it over; each runs in a real process."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import time
from collections.abc import Callable

from imsd.guest import child
from imsd.guest.channel import READ, REPORT, REQUEST, InspectingSide
from imsd.guest.report import GuestReport


def loop(channel: socket.socket) -> None:
    InspectingSide(channel)
    while True:
        pass


def loop_deaf(channel: socket.socket) -> None:
    for number in (signal.SIGXCPU, signal.SIGTERM, signal.SIGPROF):
        signal.signal(number, signal.SIG_IGN)
    loop(channel)


def sleep(channel: socket.socket) -> None:
    InspectingSide(channel)
    time.sleep(3600)


def die(channel: socket.socket) -> None:
    InspectingSide(channel)
    ctypes.string_at(0)


def die_unasked(channel: socket.socket) -> None:
    os._exit(1)


def raise_error(channel: socket.socket) -> None:
    raise RuntimeError("a defect")


def eat_memory(channel: socket.socket) -> None:
    InspectingSide(channel)
    kept = []
    while True:
        kept.append(bytearray(16 << 20))


def send_garbage(channel: socket.socket) -> None:
    InspectingSide(channel)
    channel.sendall(b"\xff" * 4096)


def send_report(channel: socket.socket, text: bytes) -> None:
    InspectingSide(channel)
    channel.sendall(REQUEST.pack(REPORT, 0, len(text)) + text)


def report_no_json(channel: socket.socket) -> None:
    send_report(channel, b"{" * 1000)


def report_deep_json(channel: socket.socket) -> None:
    send_report(channel, b"[" * 100_000)


def report_wrong_types(channel: socket.socket) -> None:
    content = json.loads(GuestReport().to_json())
    content["findings"] = [{"code": "rm -rf", "text": 5}]
    send_report(channel, json.dumps(content).encode())


def report_too_long(channel: socket.socket) -> None:
    InspectingSide(channel)
    channel.sendall(REQUEST.pack(REPORT, 0, 0xFFFFFFFF))
    time.sleep(3600)


def report_half(channel: socket.socket) -> None:
    InspectingSide(channel)
    channel.sendall(REQUEST.pack(REPORT, 0, 1000) + b"{")


def read_beyond(channel: socket.socket) -> None:
    side = InspectingSide(channel)
    channel.sendall(REQUEST.pack(READ, side.volume.size_bytes - 1, 2))
    time.sleep(3600)


def read_a_lot_at_once(channel: socket.socket) -> None:
    InspectingSide(channel)
    channel.sendall(REQUEST.pack(READ, 0, (1 << 20) + 1))
    time.sleep(3600)


def read_for_ever(channel: socket.socket) -> None:
    InspectingSide(channel)
    while True:
        channel.sendall(REQUEST.pack(READ, 0, 4096))
        left = 4096
        while left:
            left -= len(channel.recv(left))


def read_one_byte(channel: socket.socket) -> None:
    side = InspectingSide(channel)
    side.volume.read(0, 1)
    serve_report(side)


def serve_report(side: InspectingSide, *evidence: str) -> None:
    side.report(GuestReport(is_inspected=True, evidence=evidence).to_json().encode())


def tell_what_it_can_do(channel: socket.socket) -> None:
    """Reports what it managed to do, one word each."""
    side = InspectingSide(channel)
    managed = [word for word, attempt in ATTEMPTS.items() if _manages(attempt)]
    managed += [f"environment:{len(os.environ)}", f"user:{os.getuid()}"]
    managed.append(f"descriptors:{sum(_is_open(number) for number in range(3, 4096))}")
    serve_report(side, *managed)


def _is_open(number: int) -> bool:
    return _manages(lambda: os.read(number, 0))


def _manages(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except (OSError, ValueError):
        return False
    return True


# What a confined process tries; all of it must fail.
ATTEMPTS: dict[str, Callable[[], object]] = {
    "open": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "socket": socket.socket,
    "pipe": os.pipe,
    "raise-limit": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
    "fork": lambda: os.fork() or os._exit(0),
    "become-root": lambda: os.setuid(0),
    "execute": lambda: os.execv("/bin/true", ["true"]),
    "signal": lambda: os.kill(os.getppid(), 0),
    "look": lambda: os.stat("/"),
}


def inspect_for_ever(channel: socket.socket) -> None:
    """The real thing, with an inspection that does not end by itself."""

    def endless(_: object) -> GuestReport:
        while True:
            pass

    vars(child)["inspect"] = endless
    child.serve(channel)
