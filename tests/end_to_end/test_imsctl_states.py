"""What `imsctl image` decides of images, against a real daemon: from a list to the last deletion."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.daemon_process import DaemonProcess
from tests.end_to_end.disks import random_disk

MIB = 1 << 20


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    daemon = DaemonProcess(tmp_path_factory.mktemp("daemon"))
    daemon.start()
    yield daemon
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log.read_text()


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("disk") / "disk.raw"
    path.write_bytes(random_disk(MIB))
    return path


@pytest.fixture
def make(shared: DaemonProcess, disk: Path, request: pytest.FixtureRequest) -> Callable[..., dict[str, Any]]:
    """Import an image under the name of the test and a suffix."""
    project = project_of(request)

    def import_(suffix: str = "", *options: str) -> dict[str, Any]:
        command = ("--project", project, "image", "import", str(disk), "--name", f"web{suffix}", *options)
        image: dict[str, Any] = shared.imsctl_json(*command)
        return image

    return import_


@pytest.fixture
def ctl(shared: DaemonProcess, request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Run a command in the project of the test; what it prints as JSON."""
    project = project_of(request)
    return lambda *command: shared.imsctl_json("--project", project, *command)


@pytest.fixture
def refused(shared: DaemonProcess, request: pytest.FixtureRequest) -> Callable[..., str]:
    project = project_of(request)

    def run(*command: str) -> str:
        failed = shared.imsctl("--project", project, *command, check=False)
        assert failed.returncode == 1, failed
        return failed.stderr.partition("[")[2].partition("]")[0]

    return run


def project_of(request: pytest.FixtureRequest) -> str:
    return "".join(c if c.isalnum() else "-" for c in request.node.name)[:60]


def names(images: list[dict[str, Any]]) -> list[str]:
    return sorted(image["name"] for image in images)


def test_an_image_is_forbidden_and_allowed_again(make: Any, ctl: Any, refused: Any, tmp_path: Path) -> None:
    make()
    assert ctl("image", "deactivate", "web")["status"] == "deactivated"
    assert ctl("image", "deactivate", "web")["status"] == "deactivated"
    assert refused("image", "download", "web", "-o", str(tmp_path / "out.raw")) == "IMAGE_NOT_ACTIVE"
    assert refused("image", "set", "web", "--name", "other") == "IMAGE_NOT_ACTIVE"
    assert names(ctl("image", "list", "--status", "deactivated")) == ["web"]
    assert ctl("image", "reactivate", "web")["status"] == "active"


def test_a_family_gives_its_newest_image_that_is_not_superseded(make: Any, ctl: Any, refused: Any) -> None:
    first = make("-1", "--family", "web")
    second = make("-2", "--family", "web", "--arch", "x86")
    found = ctl("image", "resolve", "web")
    assert (found["image_id"], found["digest"]) == (second["id"], second["digest"])
    assert refused("image", "resolve", "web", "--arch", "arm") == "NOT_FOUND"
    deprecated = ctl("image", "deprecate", "web-2", "--replacement", "web-1")
    assert deprecated["deprecated_at"]
    assert deprecated["replacement_image_id"] == first["id"]
    assert ctl("image", "resolve", "web")["image_id"] == first["id"]
    assert names(ctl("image", "list", "--deprecated")) == ["web-2"]
    assert names(ctl("image", "list", "--not-deprecated", "--family", "web")) == ["web-1"]
    assert ctl("image", "undeprecate", "web-2")["deprecated_at"] is None
    assert ctl("image", "resolve", "web")["image_id"] == second["id"]
    assert refused("image", "deprecate", "web-1", "--replacement", "nothing") == "NOT_FOUND"


def test_a_public_image_is_seen_by_all_and_deleted_by_nobody(
    shared: DaemonProcess, make: Any, ctl: Any, refused: Any
) -> None:
    image = make("-for-all")
    assert ctl("image", "make-public", "web-for-all")["visibility"] == "public"
    found = shared.imsctl_json("--project", "stranger", "image", "show", "web-for-all")
    assert (found["id"], found["origin"], found["job_id"]) == (image["id"], "", "")
    listed = shared.imsctl_json("--project", "stranger", "image", "list", "--public", "--id", image["id"])
    assert names(listed) == ["web-for-all"]
    assert shared.imsctl_json("--project", "stranger", "image", "list") == []
    table = shared.imsctl("--project", "stranger", "image", "list", "--all").stdout
    assert "SEEN BY" in table.splitlines()[0]
    foreign = shared.imsctl("--project", "stranger", "image", "delete", image["id"], check=False)
    assert "[NOT_OWNER]" in foreign.stderr
    assert refused("image", "delete", "web-for-all") == "IMAGE_PUBLIC"
    assert refused("image", "publish", "web-for-all") == "IMAGE_PUBLIC"
    assert ctl("image", "make-private", "web-for-all")["visibility"] == "private"
    unseen = shared.imsctl("--project", "stranger", "image", "show", image["id"], check=False)
    assert "[NOT_FOUND]" in unseen.stderr


def test_a_published_image_stays(make: Any, ctl: Any, refused: Any) -> None:
    make()
    published = ctl("image", "publish", "web", "--product-code", "web-2026")
    assert (published["published"], published["product_code"]) == (True, "web-2026")
    assert refused("image", "delete", "web") == "IMAGE_PUBLISHED"
    assert refused("image", "make-public", "web") == "IMAGE_PUBLISHED"
    assert names(ctl("image", "list", "--published")) == ["web"]
    withdrawn = ctl("image", "unpublish", "web")
    assert (withdrawn["published"], withdrawn["product_code"]) == (False, "")


def test_a_deleted_image_comes_back_or_is_gone_for_good(make: Any, ctl: Any, refused: Any) -> None:
    one, two = make("-1", "--tag", "k=v"), make("-2")
    deleted = ctl("image", "delete", "web-1", "web-2")
    assert deleted == [{"id": one["id"], "name": "web-1"}, {"id": two["id"], "name": "web-2"}]
    assert ctl("image", "list") == []
    pending = ctl("image", "list", "--status", "pending-delete", "--name", "web-1")
    assert pending[0]["purge_at"] > pending[0]["deleted_at"]
    assert [image["name"] for image in ctl("image", "undelete", "web-1")] == ["web-1"]
    back = ctl("image", "show", "web-1")
    assert (back["status"], back["tags"], back["digest"]) == ("active", {"k": "v"}, one["digest"])
    assert refused("image", "undelete", "web-1") == "NOT_FOUND"
    assert refused("image", "undelete", one["id"]) == "FAILED_PRECONDITION"
    ctl("image", "delete", "--now", two["id"])
    assert refused("image", "undelete", two["id"]) == "NOT_FOUND"
    ctl("image", "delete", "web-1", "--now")
    assert ctl("image", "list", "--status", "pending-delete") == []


def test_everything_that_is_said_of_an_image_is_shown(
    ctl: Any, make: Any, refused: Any, shared: DaemonProcess, request: pytest.FixtureRequest
) -> None:
    make("", "--support", "kvm", "--server-kind", "bare-metal", "--arch", "x86")
    changes = (
        *("--family", "web", "--boot-mode", "uefi", "--shutdown-timeout", "90", "--nic-multiqueue"),
        *("--guest-configured", "--no-credential-injection", "--agent", "hss", "--agent", "ces"),
        *("--os-features", '{"a": "b"}', "--support", "xen", "--remove-support", "kvm"),
        *("--enterprise-project", "11111111-2222-4333-8444-555555555555", "--min-disk", "40"),
    )
    changed = ctl("image", "set", "web", *changes)
    assert changed["server_support"] == {"xen": True}
    assert changed["agents"] == ["hss", "ces"]
    assert (changed["shutdown_timeout"], changed["nic_multiqueue"]) == (90, True)
    assert (changed["credential_injection"], changed["guest_configured"]) == (False, True)
    assert (changed["os_features"], changed["family"]) == ('{"a": "b"}', "web")
    assert changed["kind"] == "system_disk"
    assert (changed["os_type"], changed["platform"]) == ("linux", "Other")
    shown = shared.imsctl("--project", project_of(request), "image", "show", "web").stdout
    vendor = ctl("image", "show", "web", "--vendor")
    assert (vendor["virtual_env_type"], vendor["os_shutdown_timeout"]) == ("Ironic", "90")
    assert (vendor["__support_agent_list"], vendor["__support_fc_inject"]) == ("hss,ces", "true")
    for text in ("bare metal", "xen", "hss, ces", "90 s", "upload disk.raw", '{"a": "b"}'):
        assert text in shown
    cleared = ctl("image", "set", "web", "--no-agents", "--family", "", "--boot-mode", "")
    assert (cleared["agents"], cleared["family"], cleared["boot_mode"]) == ([], "", "")
    for wrong in (("--shutdown-timeout", "59"), ("--support", "xen-hana"), ("--family", "Web")):
        assert refused("image", "set", "web", *wrong) == "INVALID_REQUEST"
    assert refused("image", "set", "web", "--license", "byol") == "INVALID_REQUEST"


def test_a_data_disk_has_a_name_and_a_description(ctl: Any, make: Any, refused: Any) -> None:
    image = make("", "--kind", "data-disk")
    assert (image["kind"], image["min_disk"], image["os_type"]) == ("data_disk", 40, "linux")
    assert ctl("image", "set", "web", "--name", "data", "--description", "d", "--protect")["name"] == "data"
    for wrong in (("--min-ram", "1"), ("--support", "kvm"), ("--property", "a=b")):
        assert refused("image", "set", "data", *wrong) == "IMAGE_KIND_UNSUITED"
    assert refused("image", "make-public", "data") == "IMAGE_KIND_UNSUITED"
    assert refused("image", "publish", "data") == "IMAGE_KIND_UNSUITED"


def test_an_image_without_bytes_waits_and_may_be_deleted(ctl: Any, refused: Any) -> None:
    command = ("image", "create-queued", "--name", "later", "--format", "qcow2", "--protect", "--tag", "a=b")
    image = ctl(*command, "--request-id", "once")
    assert (image["status"], image["disk_format"], image["protected"]) == ("queued", "qcow2", True)
    assert ctl(*command, "--request-id", "once")["id"] == image["id"]
    assert refused("image", "delete", "later") == "IMAGE_PROTECTED"
    assert ctl("image", "set", "later", "--no-protect", "--min-disk", "0")["protected"] is False
    ctl("image", "delete", "later")
    assert ctl("image", "list", "--status", "pending-delete") == []
    assert refused("image", "show", image["id"]) == "NOT_FOUND"


@pytest.mark.parametrize(
    ("options", "is_found"),
    [
        (("--search", "WEB"), True),
        (("--search", "other_linux"), True),
        (("--search", "%"), False),
        (("--kind", "system-disk", "--visibility", "private"), True),
        (("--kind", "iso"), False),
        (("--os-type", "linux", "--os-bits", "64", "--platform", "Other"), True),
        (("--os-version", "Other_Linux (64_bit)"), True),
        (("--arch", "arm"), False),
        (("--server-type", "S6"), False),
        (("--support", "kvm"), False),
        (("--created", "gte:2026-01-01", "--created", "lt:2200-01-01T00:00:00Z"), True),
        (("--updated", "lt:2001-01-01"), False),
        (("--unprotected", "--unpublished", "--min-ram", "0"), True),
        (("--enterprise-project", "0"), True),
        (("--shared",), False),
        (("--all", "--owner", "nobody"), False),
        (("--sort", "min_disk:desc"), True),
        (("--sort", "size"), True),
    ],
)
def test_an_option_chooses_images(ctl: Any, make: Any, options: tuple[str, ...], is_found: bool) -> None:
    make()
    assert names(ctl("image", "list", *options)) == ["web"] * is_found


def test_a_flavour_chooses_images_by_their_system(ctl: Any, make: Any, refused: Any) -> None:
    make("", "--os-version", "CentOS 7.6 64bit", "--arch", "x86")
    assert names(ctl("image", "list", "--server-type", "s6")) == ["web"]
    assert ctl("image", "list", "--server-type", "KC1") == []
    assert refused("image", "list", "--server-type", "Z99") == "INVALID_REQUEST"


def test_the_list_of_images_is_a_file_for_spreadsheets(
    ctl: Any, make: Any, shared: DaemonProcess, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    image = make("", "--os-version", "=1+1")
    path = tmp_path / "list.csv"
    written = ctl("image", "export-list", "--to", str(path))
    content = path.read_bytes()
    assert written == {"file": str(path), "file_size": len(content)}
    (row,) = csv.DictReader(io.StringIO(content.decode(), newline=""))
    assert (row["Name"], row["ID"], row["OS"]) == ("web", image["id"], "'=1+1")
    command = ("--project", project_of(request), "image", "export-list")
    again = shared.imsctl(*command, "--to", str(path), check=False)
    assert "[LOCAL_FILE]" in again.stderr
    shared.imsctl(*command, "--to", str(path), "--force")
    assert shared.imsctl(*command, "--to", "-").stdout.encode() == content.replace(b"\r\n", b"\n")
    assert shared.imsctl(*command, "--public", "--to", "-").stdout.startswith("Name,Status,OS,")
