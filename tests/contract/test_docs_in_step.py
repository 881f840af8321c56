"""What a user, an operator or a plugin's author can name stands in the documentation."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import imsd_kms_local
import imsd_kms_transit
import pluggy
import pytest
from google.protobuf import descriptor_pool

from imsd import contract
from imsd.config import SECTIONS, Config
from imsd.contract import PLUGIN_GROUP, KeyCapabilities, StoreCapabilities, hookspecs
from imsd.core.opened_stores import DriverState
from imsd.core.plugin_registry import load_plugins
from imsd.core.store_sections import StoreSection
from imsd.grpc_server.server import SERVICES
from imsd.v1.error_reason_pb2 import ErrorReason
from tests.contract.source_tree import ROOT, documentation

RPCS = [
    f"{service.name}.{method.name}"
    for service in map(descriptor_pool.Default().FindServiceByName, SERVICES)
    for method in service.methods
]

# The files that declare them, by name: "image" for image.proto.
PROTOS = sorted({Path(descriptor_pool.Default().FindServiceByName(each).file.name).stem for each in SERVICES})

REASONS = [name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys() if "UNSPECIFIED" not in name]  # noqa: SIM118


# Findings of formats and of what was declared; those of an inspection have a test of their own.
FINDINGS = sorted(
    {
        code
        for room in ("chunks", "core", "formats")
        for path in (ROOT / "imsd" / room).rglob("*.py")
        for code in re.findall(r"\bFinding\(\s*\"(\w+)\"", path.read_text())
    }
)

ENTERED = re.compile(r"(?:\.enter\((?:[\w.]+, )?|\bFilling\([^\"]*)\"([a-z-]+)\"")

PHASES = {
    "queued",
    "done",
    *(
        phase
        for path in (ROOT / "imsd" / "core").rglob("*.py")
        for phase in ENTERED.findall(path.read_text())
    ),
}


def is_documented(name: str) -> bool:
    """Whether ``name`` stands in the documentation as a word of its own."""
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", documentation()) is not None


@pytest.mark.parametrize(
    "key", [*Config.model_fields, *(key for section in SECTIONS.values() for key in section.model_fields)]
)
def test_every_key_of_the_configuration_is_documented(key: str) -> None:
    assert is_documented(key)


@pytest.mark.parametrize("rpc", RPCS)
def test_every_rpc_is_documented(rpc: str) -> None:
    assert is_documented(rpc.split(".")[1])


@pytest.mark.parametrize("name", PROTOS)
def test_every_field_of_the_wire_says_its_unit_and_range(name: str) -> None:
    text = (ROOT / "proto" / "imsd" / "v1" / f"{name}.proto").read_text()
    fields_of_messages = re.findall(r"^ +(?:repeated )?[\w.<>, ]+ (\w+) = \d+;(.*)$", text, re.MULTILINE)
    assert fields_of_messages
    assert [field for field, comment in fields_of_messages if " // " not in comment] == []


@pytest.mark.parametrize("phase", sorted(PHASES))
def test_every_phase_of_a_job_is_documented(phase: str) -> None:
    for page in ("proto/imsd/v1/job.proto", "clients/README.md"):
        line = next(line for line in (ROOT / page).read_text().splitlines() if "one word: " in line)
        assert re.search(rf"[ `]{phase}[`,;]", line)


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_is_documented(reason: str) -> None:
    assert is_documented(reason)


@pytest.mark.parametrize("code", FINDINGS)
def test_every_finding_is_documented(code: str) -> None:
    pages = ("imsd/formats/README.md", "imsd/guest/README.md")
    assert any(f"`{code}`" in (ROOT / page).read_text() for page in pages)


# Rooms inside others: one file a kind of job, policies with their own page, migrations.
TOLD_AS_A_WHOLE = ("workflows", "policies", "migrations", "__pycache__")


@pytest.mark.parametrize("room", ["core", "metadata"])
def test_every_module_of_a_large_room_is_on_its_page(room: str) -> None:
    page = (ROOT / "imsd" / room / "README.md").read_text()
    folder = ROOT / "imsd" / room
    names = [path.stem for path in folder.glob("[!_]*.py")]
    # A room inside it with modules of its own, unless it has a page of its own or is told as a whole.
    inner = [each for each in folder.iterdir() if each.is_dir() and each.name not in TOLD_AS_A_WHOLE]
    names += [path.stem for each in inner for path in each.glob("[!_]*.py")]
    assert all(f"`{each.name}/`" in page for each in inner if list(each.glob("[!_]*.py")))
    assert names
    assert [name for name in names if not re.search(rf"`{name}(\.py)?`", page)] == []


def test_every_hook_is_documented() -> None:
    manager = pluggy.PluginManager(PLUGIN_GROUP)
    manager.add_hookspecs(hookspecs)
    hooks = [name for name in vars(hookspecs) if name.startswith("imsd_")]
    assert hooks
    page = (ROOT / "plugins" / "README.md").read_text()
    for hook in hooks:
        assert hasattr(manager.hook, hook)
        assert f"`{hook}`" in page


def test_every_option_of_a_built_in_driver_is_documented_beside_it() -> None:
    drivers = load_plugins().stores
    assert "localfs" in drivers
    for declared in drivers.values():
        page = (ROOT / "plugins" / declared.plugin.split()[0] / "README.md").read_text()
        for field in fields(declared.driver.options):
            assert f"`{field.name}`" in page


@pytest.mark.parametrize("plugin", [imsd_kms_local, imsd_kms_transit])
def test_every_option_of_a_key_driver_is_documented_beside_it(plugin: ModuleType) -> None:
    page = (ROOT / "plugins" / plugin.__name__ / "README.md").read_text()
    for driver in plugin.imsd_key_services():
        assert f"`{driver.name}`" in page
        for field in fields(driver.options):
            assert f"`{field.name}`" in page


def test_the_capabilities_of_a_key_service_are_documented() -> None:
    page = (ROOT / "plugins" / "README.md").read_text()
    for field in fields(KeyCapabilities):
        assert f"`{field.name}`" in page


def test_the_keys_and_states_of_a_store_are_documented() -> None:
    page = (ROOT / "plugins" / "README.md").read_text()
    for name in (*(field.name for field in fields(StoreSection)), *DriverState):
        assert f"`{name}`" in page
    for field in fields(StoreCapabilities):
        assert f"`{field.name}`" in page


def test_the_example_of_a_driver_is_the_one_that_is_tested() -> None:
    page = (ROOT / "plugins" / "README.md").read_text()
    code = (ROOT / "tests" / "conformance" / "example_driver.py").read_text()
    assert f"```python\n{code}```" in page


@pytest.mark.parametrize("name", sorted(contract.__all__))
def test_all_that_a_plugin_may_import_says_what_it_is(name: str) -> None:
    if callable(getattr(contract, name)):
        assert getattr(contract, name).__doc__


def test_a_name_that_is_missing_is_missed() -> None:
    assert not is_documented("IMAGE_NEVER_HEARD_OF")
    assert not is_documented("drain_second")
    assert is_documented("drain_seconds")
