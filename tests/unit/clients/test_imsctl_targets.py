"""The file that `imsctl image convert` and `image download` write: its format, its compression, its size."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from imsctl.target import UNWRITTEN, WRITTEN

from imsd.formats.registry import FORMATS
from imsd.formats.unwrap import WRAPPERS
from imsd.v1 import image_pb2
from tests.unit.clients.conftest import Imsctl
from tests.unit.clients.fake_daemon import FakeDaemon
from tests.unit.formats.crafted_iso import disc

MIB = 1 << 20
CONVERT, DOWNLOAD = ["convert", "disk.raw"], ["download", "web", "-o"]


@pytest.fixture(autouse=True)
def disk(daemon: FakeDaemon, tmp_path: Path) -> bytes:
    """The content of disk.raw, and of the image `web`."""
    content = b"disk" * 50_048
    (tmp_path / "disk.raw").write_bytes(content)
    daemon.add_image("web", content)
    return content


def test_every_format_that_is_read_is_written_or_known_not_to_be() -> None:
    assert {one.name for one in FORMATS if one.can_write} == set(WRITTEN)
    assert {one.name for one in FORMATS if not one.can_write} | set(WRAPPERS) <= set(UNWRITTEN.values())


@pytest.mark.parametrize(
    ("command", "option"), [(CONVERT, "--to"), (DOWNLOAD, "--format")], ids=["convert", "download"]
)
@pytest.mark.parametrize(
    ("name", "kind", "suffix"),
    [
        ("x.qed", "qed", "qed"),
        ("x.QCOW", "qcow", "qcow"),
        ("x.iso", "iso", "iso"),
        ("x.ova", "ova", "ova"),
        ("x.hds", "parallels", "hds"),
        ("x.qcow2.gz", "gzip", "gz"),
    ],
)
async def test_a_suffix_of_what_cannot_be_written_is_refused(
    imsctl: Imsctl, tmp_path: Path, command: list[str], option: str, name: str, kind: str, suffix: str
) -> None:
    outcome = await imsctl("image", *command, name)
    assert outcome.code == 1
    assert outcome.errors == (
        f"imsctl: imsd cannot write {kind} files, which .{suffix} stands for [FORMAT_UNSUPPORTED]\n"
        f"  say with {option} what {name} is to be: one of {', '.join(WRITTEN)}\n"
    )
    assert os.listdir(tmp_path) == ["disk.raw"]
    outcome = await imsctl("image", *command, name, option, "raw")
    assert outcome.code == 0, outcome.errors


async def test_a_disc_stays_a_disc_when_it_is_asked_for(
    imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path
) -> None:
    content = disc(bootable=True)
    (tmp_path / "a.iso").write_bytes(content)
    daemon.add_image("cd", content, disk_format=image_pb2.DISK_FORMAT_ISO)
    for command in (["convert", "a.iso", "b.iso", "--to"], ["download", "cd", "-o", "b.iso", "--format"]):
        for kind in ("iso", "raw"):
            outcome = await imsctl("image", *command, kind, "--force")
            assert outcome.code == 0, outcome.errors
            assert " as raw, " in outcome.text
            assert (tmp_path / "b.iso").read_bytes() == content
            (tmp_path / "b.iso").unlink()
    outcome = await imsctl("image", "download", "cd", "-o", "c.ISO")
    assert outcome.code == 0, outcome.errors
    assert (tmp_path / "c.ISO").read_bytes() == content
    outcome = await imsctl("image", *CONVERT, "b.iso", "--to", "iso")
    assert outcome.errors.startswith("imsctl: imsd cannot write iso files [FORMAT_UNSUPPORTED]\n")


@pytest.mark.parametrize("command", [CONVERT, DOWNLOAD], ids=["convert", "download"])
async def test_a_wrong_compression_is_wrong_usage(imsctl: Imsctl, command: list[str]) -> None:
    outcome = await imsctl("image", *command, "x.qcow2", "--compress", "foo")
    assert outcome.code == 2
    assert "'foo' is none of: none, zlib, zstd, zlib-small [USAGE]" in outcome.errors


async def test_a_compression_may_be_written_as_json_has_other_names(imsctl: Imsctl) -> None:
    outcome = await imsctl("image", *CONVERT, "x.qcow2", "--compress", "zlib_small")
    assert outcome.code == 0, outcome.errors


@pytest.mark.parametrize("target", ["x.vpc", "x.vhd", "-"])
async def test_it_is_told_when_a_vhd_is_longer(imsctl: Imsctl, disk: bytes, target: str) -> None:
    note = f"note: the VHD's disk is {MIB - len(disk):,} bytes longer: VHD rounds up to whole MiB\n"
    converted = await imsctl("image", *CONVERT, target, "--to", "vhd" if target == "-" else "")
    assert (converted.code, converted.errors) == (0, note)
    downloaded = await imsctl("image", *DOWNLOAD, target, "--format", "vhd", "--force")
    assert (downloaded.code, downloaded.errors) == (0, note)


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
async def test_a_disk_of_another_format_is_not_longer(imsctl: Imsctl, kind: str) -> None:
    assert (await imsctl("image", *CONVERT, "x", "--to", kind)).errors.count("longer") == 0
