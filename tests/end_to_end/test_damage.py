"""Stored bytes are damaged on the disk: a user is told, gets no wrong byte, and can make it good."""

from __future__ import annotations

from pathlib import Path

from tests.end_to_end.daemon_process import DaemonProcess
from tests.end_to_end.disks import MIB, random_disk


def damage(daemon: DaemonProcess) -> None:
    """Change a few bytes in the middle of the largest pack."""
    packs = daemon.blobs("packs/")
    path = daemon.store / max(packs, key=packs.__getitem__)
    mode = path.stat().st_mode
    path.chmod(0o600)
    with path.open("r+b") as pack:
        pack.seek(path.stat().st_size // 2)
        pack.write(b"damage")
    path.chmod(mode)


def test_a_good_copy_imported_after_verify_is_good(daemon: DaemonProcess, tmp_path: Path) -> None:
    disk, copy = tmp_path / "disk.raw", tmp_path / "copy.raw"
    disk.write_bytes(random_disk(3 * MIB))
    daemon.imsctl("image", "import", str(disk), "--name", "first")
    damage(daemon)

    refused = daemon.imsctl("image", "download", "first", "-o", str(copy), check=False)
    assert (refused.returncode, copy.exists()) == (1, False)
    assert "[DATA_LOSS]" in refused.stderr
    assert "verify the image" in refused.stderr

    report = daemon.imsctl("image", "verify", "first", check=False)
    assert report.returncode == 1
    assert "damaged in 1 place" in report.stdout

    daemon.imsctl("image", "import", str(disk), "--name", "second")
    assert "intact" in daemon.imsctl("image", "verify", "second").stdout
    daemon.imsctl("image", "download", "second", "-o", str(copy))
    assert copy.read_bytes() == disk.read_bytes()
