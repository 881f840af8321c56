"""An import that is encrypted, and what comes of it, against the same without a key."""

from __future__ import annotations

import secrets
from contextlib import closing

from tests.benchmark.disks import Disks
from tests.benchmark.our_daemon import OurDaemon
from tests.benchmark.report import Row, mebibytes, speed_row
from tests.benchmark.stopwatch import Contender, Times, measure

KEY = ("--encrypt-with", "key")
GOAL = 0.85


def encrypted(disks: Disks, rounds: int) -> tuple[list[Row], list[Times]]:
    folder, passphrase = disks.scratch / "daemon", disks.scratch / "passphrase"
    passphrase.touch(mode=0o600)
    passphrase.write_text(f"{secrets.token_hex(16)}\n")
    keyring = {"DRIVER": "local", "PATH": str(folder / "keyring"), "PASSPHRASE_FILE": str(passphrase)}
    settings = {f"IMSD_KEY_SERVICES__MAIN__{name}": value for name, value in keyring.items()}
    with closing(OurDaemon(folder, settings)) as daemon:
        rows, measured = imports(daemon, disks, rounds)
        more_rows, more_measured = downloads(daemon, disks, rounds)
    return rows + more_rows, measured + more_measured


def start(daemon: OurDaemon) -> None:
    daemon.start()
    daemon.imsctl("key", "create", "key")


def imports(daemon: OurDaemon, disks: Disks, rounds: int) -> tuple[list[Row], list[Times]]:
    def contender(label: str, *flags: str) -> Contender:
        return Contender(
            label=label,
            command=" ".join(("imsctl image import debian.raw --name disk", *flags)),
            before=lambda: start(daemon),
            run=lambda: daemon.imsctl("image", "import", disks.first, "--name", "disk", *flags),
            after=daemon.stop,
            size=lambda: int(daemon.image("disk")["stored_size"]),
        )

    contenders = [
        contender("imsd, encrypted import", *KEY),
        contender("imsd, plain import"),
        contender("imsd, encrypted import, bytes sent", *KEY, "--send-bytes"),
        contender("imsd, plain import, bytes sent", "--send-bytes"),
    ]
    times = measure(contenders, rounds)
    here, plain, sent, plain_sent = (times[each.label] for each in contenders)
    sizes = Row("size of it", mebibytes(here.size_bytes), f"plain: {mebibytes(plain.size_bytes)}", "", "")
    return [
        speed_row("encrypted import of a RAW file", here, plain, GOAL),
        speed_row("same, its bytes uploaded over the socket", sent, plain_sent, GOAL),
        sizes,
    ], list(times.values())


def downloads(daemon: OurDaemon, disks: Disks, rounds: int) -> tuple[list[Row], list[Times]]:
    target = disks.scratch / "out"

    def contender(name: str, disk_format: str) -> Contender:
        return Contender(
            label=f"imsd, {name} image to {disk_format}",
            command=f"imsctl image download {name} -o out --format {disk_format}",
            run=lambda: daemon.imsctl("image", "download", name, "-o", target, "--format", disk_format),
            after=lambda: target.unlink(missing_ok=True),
        )

    start(daemon)
    daemon.imsctl("image", "import", disks.first, "--name", "encrypted", *KEY)
    daemon.imsctl("image", "import", disks.first, "--name", "plain")
    rows, measured = [], []
    for disk_format in ("raw", "qcow2"):
        pair = [contender("encrypted", disk_format), contender("plain", disk_format)]
        times = measure(pair, rounds)
        ours, plain = (times[each.label] for each in pair)
        rows.append(speed_row(f"encrypted image → {disk_format.upper()} file", ours, plain, None))
        measured += [ours, plain]
    return rows, measured
