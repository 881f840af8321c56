"""The sections ``[buckets.NAME]`` of the configuration: stores of the users' own, and who may use them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from imsd.contract import InvalidRequest

from .caller import EVERY_PROJECT
from .limits import PROJECT
from .plugin_registry import PluginRegistry
from .store_sections import ConfiguredStore, parse_section

StorageClass = Literal["standard", "warm", "cold"]


@dataclass(frozen=True, slots=True)
class BucketSection:
    """The keys of a section ``[buckets.NAME]`` that are not the driver's own."""

    # The driver, by the name that its plugin declares: the same as of a store.
    driver: str

    # The projects that may use the bucket, or "*" for every one. To all others it is not there.
    projects: tuple[str, ...] = ()

    # Where the bucket lies: by default in the daemon's region, the only one whose buckets images go to and
    # come from.
    region: str | None = None

    # Images go to and come from buckets of the class "standard" only.
    storage_class: StorageClass = "standard"

    # Whether exports into the bucket are refused.
    read_only: bool = False

    # Whether the daemon refuses to start without this bucket.
    required: bool = False

    def __post_init__(self) -> None:
        for project in self.projects:
            if project != EVERY_PROJECT and not PROJECT.match(project):
                raise InvalidRequest(
                    f"{project[:80]!r} is no project",
                    field="projects",
                    hint='name projects by their ids, or "*" for every one',
                )
        if self.region is not None and not PROJECT.match(self.region):
            raise InvalidRequest(f"{self.region[:80]!r} is no region", field="region")


@dataclass(frozen=True, slots=True)
class ConfiguredBucket:
    """A section that was understood; ``region`` is never empty."""

    store: ConfiguredStore
    own: BucketSection
    region: str

    def section(self) -> dict[str, Any]:
        """Every key of the section with the value that holds, defaults included."""
        own = {field.name: getattr(self.own, field.name) for field in fields(self.own)}
        return own | self.store.section() | {"region": self.region}


def configured_buckets(
    registry: PluginRegistry, sections: Mapping[str, Mapping[str, Any]], region: str
) -> list[ConfiguredBucket]:
    """Every section, in order; ``region``: the daemon's. Raises InvalidRequest (INVALID_CONFIGURATION)."""
    return [_configured(registry, name, values, region) for name, values in sections.items()]


def _configured(
    registry: PluginRegistry, name: str, values: Mapping[str, Any], region: str
) -> ConfiguredBucket:
    own, declared, options = parse_section(registry, BucketSection, values, f"buckets.{name}", is_bucket=True)
    store = ConfiguredStore(name, declared, options, own.required, "bucket")
    return ConfiguredBucket(store, own, own.region or region)
