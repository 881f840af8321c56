"""Loading plugins: what is found, and how a wrong one is named."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, EntryPoints
from types import ModuleType
from typing import Any

import imsd_localfs
import pytest

from imsd.contract import CONTRACT_VERSION, InvalidRequest, StoreDriver, hookimpl
from imsd.core import plugin_registry
from imsd.core.plugin_registry import load_plugins
from tests.unit.core_drivers.some_plugins import driver, plugin


@dataclass
class Changeable:
    path: str = ""


def refusal(*modules: ModuleType) -> str:
    with pytest.raises(InvalidRequest) as caught:
        load_plugins(modules=modules)
    assert caught.value.reason == "INVALID_CONFIGURATION"
    assert "disabled_plugins" in caught.value.hint
    return caught.value.message


def test_the_built_in_driver_is_found_by_its_entry_point() -> None:
    declared = load_plugins().stores["localfs"]
    assert declared.plugin.startswith("imsd_localfs 0.")
    assert declared.driver.contract_version == CONTRACT_VERSION


def test_a_disabled_plugin_is_not_loaded() -> None:
    assert "localfs" not in load_plugins(["localfs", "not-installed-at-all"]).stores


def test_given_modules_are_all_there_is() -> None:
    registry = load_plugins(modules=[imsd_localfs, plugin("tapes", driver("tape"), driver("drum"))])
    assert sorted(registry.stores) == ["drum", "localfs", "tape"]
    assert registry.stores["tape"].plugin == "tapes"
    assert load_plugins(modules=[]).stores == {}


def test_two_drivers_of_one_name_are_refused_and_both_plugins_named() -> None:
    message = refusal(plugin("first", driver("tape")), plugin("second", driver("tape")))
    assert "second" in message
    assert "first" in message
    assert "'tape'" in message


def test_a_misspelt_hook_is_named() -> None:
    module = ModuleType("tapes")

    @hookimpl
    def imsd_blob_store() -> list[Any]:
        return []

    vars(module)["imsd_blob_store"] = imsd_blob_store
    message = refusal(module)
    assert "tapes" in message
    assert "imsd_blob_store" in message


def test_a_hook_with_an_argument_that_there_is_not_is_named() -> None:
    module = ModuleType("tapes")

    @hookimpl
    def imsd_blob_stores(config: object) -> list[Any]:
        return []

    vars(module)["imsd_blob_stores"] = imsd_blob_stores
    message = refusal(module)
    assert "tapes" in message
    assert "config" in message


def test_a_hook_that_raises_is_named_though_others_do_not() -> None:
    module = ModuleType("tapes")

    @hookimpl
    def imsd_blob_stores() -> list[Any]:
        raise ZeroDivisionError("no tape")

    vars(module)["imsd_blob_stores"] = imsd_blob_stores
    message = refusal(imsd_localfs, module)
    assert "tapes" in message
    assert "no tape" in message


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ("localfs", "a str where a StoreDriver"),
        (driver("Tape"), "a driver named 'Tape'"),
        (driver(""), "a driver named ''"),
        (driver("tape", options=Changeable), "no frozen dataclass"),
        (driver("tape", options=dict), "no frozen dataclass"),
        (driver("tape", bucket_options=Changeable), "no frozen dataclass"),
        (driver("tape", contract_version=CONTRACT_VERSION + 1), f"knows 1 to {CONTRACT_VERSION}"),
        (driver("tape", contract_version=0), f"knows 1 to {CONTRACT_VERSION}"),
    ],
)
def test_a_wrong_declaration_is_refused(declared: object, said: str) -> None:
    message = refusal(plugin("tapes", declared))
    assert said in message
    assert "tapes" in message


def test_a_declaration_of_an_older_contract_is_adapted(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_a_summary(older: StoreDriver[Any]) -> StoreDriver[Any]:
        return replace(older, summary="adapted", contract_version=older.contract_version + 1)

    monkeypatch.setattr(plugin_registry, "CONTRACT_VERSION", 3)
    monkeypatch.setattr(plugin_registry, "ADAPTERS", {1: with_a_summary, 2: with_a_summary})
    adapted = (
        load_plugins(modules=[plugin("tapes", driver("tape", contract_version=1))]).stores["tape"].driver
    )
    assert (adapted.summary, adapted.contract_version) == ("adapted", 3)


def test_an_installed_plugin_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint(name="tapes", value="no_such_module_anywhere", group="imsd")
    monkeypatch.setattr(plugin_registry, "entry_points", lambda group: EntryPoints([broken]))
    with pytest.raises(InvalidRequest, match="no_such_module_anywhere cannot be imported"):
        load_plugins()
    assert load_plugins(["tapes"]).stores == {}
