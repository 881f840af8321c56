"""The sections ``[stores.NAME]`` of the configuration, understood with what the drivers declare.

What they have in common with sections of buckets is here, too.

Nothing is opened: `imsd config show` says here what `imsd serve` would say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from imsd.contract import InvalidRequest

from .driver_options import parse_options
from .plugin_registry import Declared, DeclaredDriver, DriverT, PluginRegistry


class SectionHead(Protocol):
    """The keys of a section that are not its driver's: a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def driver(self) -> str:
        """The driver, by the name that its plugin declares."""


HeadT = TypeVar("HeadT", bound=SectionHead)


@dataclass(frozen=True, slots=True)
class StoreSection:
    """The keys of a section ``[stores.NAME]`` that are not the driver's own."""

    # The driver, by the name that its plugin declares.
    driver: str

    # Whether the daemon refuses to start without this store; by default the default store is.
    required: bool | None = None


@dataclass(frozen=True, slots=True)
class ConfiguredStore:
    """A section that was understood. ``kind``: store or bucket."""

    name: str
    declared: DeclaredDriver
    options: Any
    is_required: bool
    kind: str = "store"

    @property
    def section_name(self) -> str:
        return f"{self.kind}s.{self.name}"

    def directories(self) -> Sequence[Path]:
        """Those of this machine in which it keeps its blobs."""
        return self.declared.driver.directories(self.options)

    def places(self) -> Sequence[str]:
        """Where it keeps its blobs beyond this machine; one that begins with another lies in it."""
        return self.declared.driver.places(self.options)

    def files(self) -> Sequence[Path]:
        """Those of this machine that hold secrets of it."""
        return self.declared.driver.files(self.options)

    def section(self) -> dict[str, Any]:
        """Every key of the section with the value that holds, defaults included."""
        options = {field.name: getattr(self.options, field.name) for field in fields(self.options)}
        return {"driver": self.declared.driver.name, "required": self.is_required} | options


def configured_stores(
    registry: PluginRegistry, sections: Mapping[str, Mapping[str, Any]], default_name: str
) -> list[ConfiguredStore]:
    """Every section, in order. Raises InvalidRequest (INVALID_CONFIGURATION)."""
    stores = [_configured(registry, name, values, default_name) for name, values in sections.items()]
    if default_name not in sections:
        raise invalid_section(
            f"the default store {default_name!r} is not configured",
            "default_store",
            nearest(default_name, list(sections)),
        )
    return stores


def _configured(
    registry: PluginRegistry, name: str, values: Mapping[str, Any], default_name: str
) -> ConfiguredStore:
    head, declared, options = parse_section(registry, StoreSection, values, f"stores.{name}")
    is_required = name == default_name if head.required is None else head.required
    return ConfiguredStore(name, declared, options, is_required)


def parse_section(
    registry: PluginRegistry,
    own: type[HeadT],
    values: Mapping[str, Any],
    section: str,
    *,
    is_bucket: bool = False,
) -> tuple[HeadT, DeclaredDriver, Any]:
    """The keys of ``own``, a dataclass with the key ``driver``; that driver; and its options, all other keys.

    Raises InvalidRequest (INVALID_CONFIGURATION).
    """
    names = {field.name for field in fields(own)}
    head = parse_options(own, {key: value for key, value in values.items() if key in names}, section)
    declared = driver_of(registry.stores, head.driver, section)
    rest = {key: value for key, value in values.items() if key not in names}
    driver = declared.driver
    options = driver.bucket_options if is_bucket and driver.bucket_options else driver.options
    return head, declared, parse_options(options, rest, section)


def driver_of(declared: Mapping[str, Declared[DriverT]], name: str, section: str) -> Declared[DriverT]:
    """The driver that a section names. Raises InvalidRequest (INVALID_CONFIGURATION)."""
    if name not in declared:
        raise invalid_section(
            f"{section}: there is no driver {name!r}", f"{section}.driver", nearest(name, list(declared))
        )
    return declared[name]


def nearest(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known here: {', '.join(known) or 'none'}"


def invalid_section(message: str, field: str, hint: str) -> InvalidRequest:
    return InvalidRequest(message, reason="INVALID_CONFIGURATION", hint=hint, field=field)
