"""The sections ``[key_services.NAME]`` of the configuration, understood with what the drivers declare.

Nothing is opened: `imsd config show` says here what `imsd serve` would say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from imsd.core.driver_options import parse_options
from imsd.core.plugin_registry import DeclaredKeyDriver, PluginRegistry
from imsd.core.store_sections import driver_of, invalid_section, nearest


@dataclass(frozen=True, slots=True)
class KeyServiceSection:
    """The keys of a section ``[key_services.NAME]`` that are not the driver's own."""

    # The driver, by the name that its plugin declares.
    driver: str

    # Whether the daemon refuses to start without this key service.
    required: bool = False


@dataclass(frozen=True, slots=True)
class ConfiguredKeyService:
    """A section that was understood."""

    name: str
    declared: DeclaredKeyDriver
    options: Any
    is_required: bool
    kind: str = "key_service"

    @property
    def section_name(self) -> str:
        return f"{self.kind}s.{self.name}"

    def files(self) -> Sequence[Path]:
        """Those of this machine that hold keys and secrets."""
        return self.declared.driver.files(self.options)

    def section(self) -> dict[str, Any]:
        """Every key of the section with the value that holds, defaults included."""
        options = {field.name: getattr(self.options, field.name) for field in fields(self.options)}
        return {"driver": self.declared.driver.name, "required": self.is_required} | options


def configured_key_services(
    registry: PluginRegistry, sections: Mapping[str, Mapping[str, Any]], default_name: str
) -> list[ConfiguredKeyService]:
    """Every section, in order; ``default_name`` empty: there is no default.

    Raises InvalidRequest (INVALID_CONFIGURATION).
    """
    found = [_configured(registry, name, values) for name, values in sections.items()]
    if default_name and default_name not in sections:
        raise invalid_section(
            f"the default key service {default_name!r} is not configured",
            "default_key_service",
            nearest(default_name, list(sections)),
        )
    return found


def _configured(registry: PluginRegistry, name: str, values: Mapping[str, Any]) -> ConfiguredKeyService:
    section = f"key_services.{name}"
    own = {field.name for field in fields(KeyServiceSection)}
    head = parse_options(
        KeyServiceSection, {key: value for key, value in values.items() if key in own}, section
    )
    declared = driver_of(registry.key_services, head.driver, section)
    rest = {key: value for key, value in values.items() if key not in own}
    options = parse_options(declared.driver.options, rest, section)
    return ConfiguredKeyService(name, declared, options, head.required)
