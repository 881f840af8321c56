"""The configured key services, opened. One that does not open keeps the daemon from nothing but its keys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from imsd.contract import FailedPrecondition, KeyService, NotFound, Unavailable
from imsd.core.opened_stores import DriverState, DriverStatus, capabilities_of, open_driver
from imsd.core.plugin_registry import PluginRegistry

from .key_sections import ConfiguredKeyService, configured_key_services


@dataclass(frozen=True, slots=True)
class OpenedKeyService:
    """What came of opening a key service; without one, ``detail`` says why."""

    configured: ConfiguredKeyService
    state: DriverState
    detail: str
    service: KeyService | None

    def status(self, *, is_default: bool) -> DriverStatus:
        declared = self.configured.declared
        return DriverStatus(
            name=declared.driver.name,
            kind=self.configured.kind,
            instance=self.configured.name,
            state=self.state,
            detail=self.detail,
            summary=declared.driver.summary,
            capabilities=capabilities_of(self.service),
            plugin=declared.plugin,
            is_default=is_default,
            used_bytes=None,
            free_bytes=None,
        )


class KeyPool:
    """The key services by their configured names. ``opened``: all, in the order of the configuration."""

    def __init__(self, opened: Sequence[OpenedKeyService] = (), default_name: str = "") -> None:
        """``default_name`` empty: the only one, if there is one only."""
        self.opened = opened
        self._by_name = {each.configured.name: each for each in opened}
        self.default_name = default_name or (next(iter(self._by_name)) if len(opened) == 1 else "")

    def name_for(self, wanted: str) -> str:
        """The key service that gets a new key. Raises FailedPrecondition, NotFound (KEY_SERVICE_MISSING)."""
        if not self._by_name:
            raise FailedPrecondition(
                "this daemon has no key service, so nothing can be encrypted",
                reason="KEY_SERVICE_MISSING",
                hint="its operator configures one in a section [key_services.NAME]",
            )
        if wanted and wanted not in self._by_name:
            raise NotFound(
                f"there is no key service {wanted[:80]!r}",
                reason="KEY_SERVICE_MISSING",
                field="key_service",
                hint=f"known here: {', '.join(self._by_name)}",
            )
        name = wanted or self.default_name
        if not name:
            raise FailedPrecondition(
                "there are several key services and none is the default one",
                reason="KEY_SERVICE_MISSING",
                field="key_service",
                hint=f"name one of {', '.join(self._by_name)}, or let the operator set default_key_service",
            )
        return name

    def get(self, name: str) -> KeyService:
        """The opened key service. Raises Unavailable (DRIVER_NOT_READY)."""
        opened = self._by_name.get(name)
        if opened is not None and opened.service is not None:
            return opened.service
        why = f"is {opened.state}: {opened.detail}" if opened else "is not configured any more"
        raise Unavailable(
            f"the key service {name!r} {why}",
            reason="DRIVER_NOT_READY",
            hint="`imsctl driver list` shows every key service and its state",
        )

    def statuses(self) -> list[DriverStatus]:
        return [each.status(is_default=each.configured.name == self.default_name) for each in self.opened]


@asynccontextmanager
async def open_key_pool(
    registry: PluginRegistry, sections: Mapping[str, Mapping[str, Any]], default_name: str
) -> AsyncIterator[KeyPool]:
    """Open every key service of ``sections`` (the tables ``[key_services.NAME]``).

    Raises InvalidRequest (INVALID_CONFIGURATION), and what a required one raises when it is opened.
    """
    configured = configured_key_services(registry, sections, default_name)
    async with AsyncExitStack() as stack:
        opened = [
            OpenedKeyService(each, *await open_driver(stack, each, each.declared.driver.open))
            for each in configured
        ]
        yield KeyPool(opened, default_name)
