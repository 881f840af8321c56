"""`imsctl image convert`, `inspect` and `digest` of packages: local files, read without the daemon."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.packages import descriptor, manifest, ova, tar_of
from tests.unit.clients.conftest import Imsctl
from tests.unit.clients.fake_state import digest_of

KIB = 1024
ONE, TWO = b"one" * KIB * 512, b"two" * KIB * 256
NAMES = ("one.img", "two.img")


def package(wrong: str = "") -> bytes:
    """Two disks; the manifest has a wrong digest of the member ``wrong``."""
    disks = dict(zip(NAMES, (ONE, TWO), strict=True))
    members = {"appliance.ovf": descriptor({name: len(disk) for name, disk in disks.items()}), **disks}
    said = {name: b"other" if name == wrong else content for name, content in members.items()}
    first = ("appliance.ovf", members["appliance.ovf"])
    return tar_of([first, ("appliance.mf", manifest(said)), *disks.items()])


@pytest.mark.parametrize("algorithm", ["", "SHA1", "SHA256", "SHA512"])
async def test_a_disk_of_a_package_is_converted(imsctl: Imsctl, tmp_path: Path, algorithm: str) -> None:
    disks = dict(zip(NAMES, (ONE, TWO), strict=True))
    (tmp_path / "app.ova").write_bytes(ova(disks, algorithm=algorithm))
    outcome = await imsctl("image", "convert", "app.ova", "x.raw", "--disk", "2")
    assert outcome.code == 0, outcome.errors
    assert (tmp_path / "x.raw").read_bytes() == TWO


@pytest.mark.parametrize("wrong", ["appliance.ovf", "two.img"])
@pytest.mark.parametrize(
    "command",
    [["convert", "app.ova", "x.raw", "--disk", "2"], ["inspect", "app.ova"]],
    ids=lambda args: args[0],
)
async def test_what_the_manifest_contradicts_is_refused(
    imsctl: Imsctl, tmp_path: Path, command: list[str], wrong: str
) -> None:
    (tmp_path / "app.ova").write_bytes(package(wrong))
    outcome = await imsctl("image", *command)
    assert outcome.code == 1
    assert outcome.errors.startswith(f"imsctl: '{wrong}' has the sha256 ")
    assert "the manifest of the package says" in outcome.errors
    assert "[DIGEST_MISMATCH]\n  the package was damaged or changed: fetch it again\n" in outcome.errors
    assert outcome.output == b""
    assert os.listdir(tmp_path) == ["app.ova"]


async def test_a_disk_is_converted_whatever_another_one_is(imsctl: Imsctl, tmp_path: Path) -> None:
    (tmp_path / "app.ova").write_bytes(package("two.img"))
    outcome = await imsctl("image", "convert", "app.ova", "x.raw", "--disk", "1")
    assert outcome.code == 0, outcome.errors
    assert (tmp_path / "x.raw").read_bytes() == ONE


async def test_a_digest_is_of_the_disk_that_is_chosen(imsctl: Imsctl, tmp_path: Path) -> None:
    (tmp_path / "app.ova").write_bytes(package())
    outcome = await imsctl("image", "digest", "app.ova", "--disk", "2", "-o", "json")
    assert outcome.json["digest"] == digest_of(TWO)
    outcome = await imsctl("image", "digest", "app.ova")
    assert outcome.code == 1
    assert outcome.errors == (
        "imsctl: app.ova is a package of 2 disks: 1 'one.img', 2 'two.img' [LOCAL_FILE]\n"
        "  choose one with --disk N, 1 to 2\n"
    )
    outcome = await imsctl("image", "digest", "no-file", "--disk", "2")
    assert outcome.code == 2
    assert "is of a package, and there is no file 'no-file'" in outcome.errors


async def test_an_inspection_for_people_names_each_disk(imsctl: Imsctl, tmp_path: Path) -> None:
    (tmp_path / "app.ova").write_bytes(package())
    outcome = await imsctl("image", "inspect", "app.ova")
    assert outcome.text.startswith("app.ova: a package of 2 disks\n\ndisk 1: one.img\nfile ")
    assert "\n\ndisk 2: two.img\nfile " in outcome.text
    assert "\ufffd" not in outcome.text


async def test_a_package_may_have_one_disk(imsctl: Imsctl, tmp_path: Path) -> None:
    (tmp_path / "app.ova").write_bytes(ova({"one.img": ONE}))
    outcome = await imsctl("image", "inspect", "app.ova")
    assert outcome.text.startswith("app.ova: a package of 1 disk\n")
    outcome = await imsctl("image", "digest", "app.ova", "--disk", "2")
    assert outcome.errors == (
        "imsctl: app.ova is a package of 1 disk: 1 'one.img' [LOCAL_FILE]\n  leave --disk out\n"
    )
