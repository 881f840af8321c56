"""Which drivers there are: plugins are loaded once, at the start, and declare them.

A wrong plugin stops the start, named in the message; a driver that later does not open does not
(`imsd.core.store_pool`). Built-in plugins are found like any other, by their entry points.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Generic, NoReturn, TypeVar, cast

import pluggy
import structlog

from imsd.contract import CONTRACT_VERSION, PLUGIN_GROUP, InvalidRequest, KeyDriver, StoreDriver, hookspecs

log = structlog.get_logger(__name__)

DRIVER_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}\Z")

DriverT = TypeVar("DriverT", StoreDriver[Any], KeyDriver[Any])

# What makes a declaration of an older contract one of the next version.
ADAPTERS: Mapping[int, Callable[[Any], Any]] = {}


# Without slots: Python 3.11 cannot make one of a frozen generic class with slots by an alias.
@dataclass(frozen=True)
class Declared(Generic[DriverT]):
    """A driver and the package that declares it, with its version."""

    driver: DriverT
    plugin: str


DeclaredDriver = Declared[StoreDriver[Any]]
DeclaredKeyDriver = Declared[KeyDriver[Any]]


@dataclass(frozen=True, slots=True)
class PluginRegistry:
    """Every declared driver of a blob store, and of a key service, by its name."""

    stores: Mapping[str, DeclaredDriver]
    key_services: Mapping[str, DeclaredKeyDriver] = field(default_factory=dict)


def load_plugins(disabled: Sequence[str] = (), modules: Iterable[ModuleType] | None = None) -> PluginRegistry:
    """Load the plugins installed here but the ``disabled`` ones, or exactly ``modules`` instead.

    Raises InvalidRequest (INVALID_CONFIGURATION) that names the plugin at fault.
    """
    plugins = pluggy.PluginManager(PLUGIN_GROUP)
    plugins.add_hookspecs(hookspecs)
    found = _installed(disabled) if modules is None else ((m.__name__, m.__name__, m) for m in modules)
    titles: dict[str, str] = {}
    for name, title, module in found:
        titles[name] = title
        try:
            plugins.register(module, name)
        except (ValueError, pluggy.PluginValidationError) as error:
            _refuse(title, f"does not fit the hooks of imsd: {error}", error)
    try:
        plugins.check_pending()
    except pluggy.PluginValidationError as error:
        name = plugins.get_name(error.plugin) or ""
        _refuse(titles.get(name, name), f"does not fit the hooks of imsd: {error}", error)
    return PluginRegistry(
        stores=_declared(plugins.hook.imsd_blob_stores, titles, StoreDriver),
        key_services=_declared(plugins.hook.imsd_key_services, titles, KeyDriver),
    )


def _installed(disabled: Sequence[str]) -> Iterator[tuple[str, str, object]]:
    """(name, title, module) of each entry point."""
    points = {point.name: point for point in entry_points(group=PLUGIN_GROUP)}
    for name in sorted(set(disabled) - set(points)):
        log.warning("a disabled plugin is not installed", plugin=name)
    for name, point in sorted(points.items()):
        if name in disabled:
            continue
        title = _title(point)
        try:
            module = point.load()
        except Exception as error:  # whatever a stranger's module does when it is imported
            _refuse(title, f"cannot be imported: {type(error).__name__}: {error}", error)
        yield name, title, module


def _title(point: EntryPoint) -> str:
    return f"{point.module} {point.dist.version}" if point.dist else point.module


def _declared(hook: Any, titles: Mapping[str, str], kind: type[DriverT]) -> dict[str, Declared[DriverT]]:
    """What all plugins declare by a hook, as drivers of one kind."""
    declared: dict[str, Declared[DriverT]] = {}
    # One by one: pluggy would stop at the first exception without a name, and lose the other results.
    for each in sorted(hook.get_hookimpls(), key=lambda implementation: implementation.plugin_name):
        title = titles[each.plugin_name]
        try:
            drivers = list(cast(Sequence[object], each.function()))
        except Exception as error:  # a hook declares data; whatever it raises is a defect of the plugin
            _refuse(title, f"failed to declare its drivers: {type(error).__name__}: {error}", error)
        for driver in drivers:
            checked = _checked(driver, title, kind)
            if checked.name in declared:
                other = declared[checked.name].plugin
                _refuse(title, f"declares the driver {checked.name!r}, which {other} declares too")
            declared[checked.name] = Declared(checked, title)
    return declared


def _checked(driver: object, title: str, kind: type[DriverT]) -> DriverT:
    """``driver``, adapted to this contract."""
    if not isinstance(driver, kind):
        _refuse(title, f"declares a {type(driver).__name__} where a {kind.__name__} is wanted")
    if not DRIVER_NAME.match(driver.name):
        _refuse(title, f"declares a driver named {driver.name[:80]!r}")
    for options in (driver.options, getattr(driver, "bucket_options", None) or driver.options):
        if not (is_dataclass(options) and vars(options)["__dataclass_params__"].frozen):
            _refuse(title, f"declares options of {driver.name!r} that are no frozen dataclass")
    if not 1 <= driver.contract_version <= CONTRACT_VERSION:
        _refuse(
            title,
            f"declares {driver.name!r} for version {driver.contract_version} of the contract, "
            f"but this daemon knows 1 to {CONTRACT_VERSION}",
        )
    adapted: DriverT = driver
    for version in range(driver.contract_version, CONTRACT_VERSION):
        adapted = ADAPTERS[version](adapted)
    return adapted


def _refuse(title: str, what: str, cause: BaseException | None = None) -> NoReturn:
    raise InvalidRequest(
        f"the plugin {title} {what}",
        reason="INVALID_CONFIGURATION",
        hint="update or remove it, or name it in disabled_plugins",
    ) from cause
