"""`imsctl image set`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from imsd.v1 import image_pb2

from . import choice, image_choice
from .command import command
from .image_app import ImageArgument, app
from .image_output import print_image
from .session import Session


@dataclass(frozen=True, kw_only=True)
class SetOptions:
    name: Annotated[str | None, typer.Option(metavar="NAME", help="A new name.")] = None
    description: Annotated[str | None, typer.Option(metavar="TEXT", help="What the image is.")] = None
    os_version: Annotated[str | None, typer.Option(metavar="TEXT", help="The system on it.")] = None
    format: Annotated[
        str | None,
        typer.Option(metavar="FORMAT", help="Of an image without bytes: what fills it; '' for any."),
    ] = None
    min_disk: Annotated[
        int | None,
        typer.Option(metavar="GB", min=0, max=choice.MAX_DISK_GB, help="Smallest disk for a server."),
    ] = None
    min_ram: Annotated[
        int | None,
        typer.Option(metavar="MB", min=0, max=choice.MAX_RAM_MB, help="Least memory; 0: no limit."),
    ] = None
    max_ram: Annotated[
        int | None, typer.Option(metavar="MB", min=0, max=choice.MAX_RAM_MB, help="Most memory; 0: no limit.")
    ] = None
    protect: Annotated[
        bool | None, typer.Option("--protect/--no-protect", help="Whether it can be deleted.")
    ] = None
    boot_mode: Annotated[str | None, typer.Option(metavar="MODE", help="bios or uefi; '' for not known.")] = (
        None
    )
    family: Annotated[
        str | None, typer.Option(metavar="FAMILY", help="Its series of images; '' for none.")
    ] = None
    license: Annotated[
        str | None, typer.Option(metavar="TYPE", help="Of Windows: platform or byol; '' for not said.")
    ] = None
    enterprise_project: Annotated[
        str | None, typer.Option(metavar="ID", help="0 or a UUID: a label for billing.")
    ] = None
    nic_multiqueue: Annotated[
        bool | None,
        typer.Option("--nic-multiqueue/--no-nic-multiqueue", help="Network cards with several queues."),
    ] = None
    shutdown_timeout: Annotated[
        int | None, typer.Option(metavar="SECONDS", help="For a server to shut down, 60 to 300.")
    ] = None
    guest_configured: Annotated[
        bool | None,
        typer.Option(
            "--guest-configured/--not-guest-configured", help="Whether the system was prepared for servers."
        ),
    ] = None
    credential_injection: Annotated[
        bool | None,
        typer.Option(
            "--credential-injection/--no-credential-injection",
            help="Whether cloud-init can set password and keys.",
        ),
    ] = None
    agent: Annotated[
        list[str],
        typer.Option(metavar="NAME", help="What is installed, instead of what was said; may be repeated."),
    ] = field(default_factory=list)
    no_agents: Annotated[bool, typer.Option("--no-agents", help="Nothing is installed.")] = False
    os_features: Annotated[
        str | None, typer.Option(metavar="JSON", help="Advanced features of the system, as JSON text.")
    ] = None
    support: Annotated[
        list[str], typer.Option(metavar="MARK[=TYPE]", help="Set a mark of support. May be repeated.")
    ] = field(default_factory=list)
    remove_support: Annotated[
        list[str], typer.Option(metavar="MARK", help="Take a mark of support away. May be repeated.")
    ] = field(default_factory=list)
    property: Annotated[
        list[str], typer.Option(metavar="K=V", help="Set a property; K= removes it. May be repeated.")
    ] = field(default_factory=list)
    tag: Annotated[list[str], typer.Option(metavar="K=V", help="Set a tag. May be repeated.")] = field(
        default_factory=list
    )
    remove_tag: Annotated[list[str], typer.Option(metavar="K", help="Remove a tag. May be repeated.")] = (
        field(default_factory=list)
    )

    def apply_to(self, image: image_pb2.Image) -> list[str]:
        """Put the new values into ``image`` and return the names of what changes.

        Raises typer.BadParameter.
        """
        values = {path: value for path, value in self._values().items() if value is not None}
        for path, value in values.items():
            setattr(image, path, value)
        paths = list(values)
        if self.agent or self.no_agents:
            del image.agents[:]
            image.agents.extend(self.agent)
            paths.append("agents")
        paths += self._support(image)
        for key, value in choice.key_values(self.property, "--property").items():
            image.properties[key] = value
            paths.append(f"properties.{key}")
        if self.tag or self.remove_tag:
            image.tags.update(choice.key_values(self.tag, "--tag"))
            for key in self.remove_tag:
                image.tags.pop(key, None)
            paths.append("tags")
        return paths

    def _values(self) -> dict[str, Any]:
        """By the name of the field; None: it stays as it is."""
        if self.agent and self.no_agents:
            raise typer.BadParameter("--agent and --no-agents say different things")
        injection = self.credential_injection
        return {
            "name": self.name,
            "description": self.description,
            "os_version": self.os_version,
            "disk_format": None if self.format is None else image_choice.disk_format(self.format),
            "min_disk_gb": self.min_disk,
            "min_ram_mb": self.min_ram,
            "max_ram_mb": self.max_ram,
            "is_protected": self.protect,
            "boot_mode": None if self.boot_mode is None else image_choice.boot_mode(self.boot_mode),
            "family": self.family,
            "license_type": None if self.license is None else image_choice.license_type(self.license),
            "enterprise_project_id": self.enterprise_project,
            "has_nic_multiqueue": self.nic_multiqueue,
            "shutdown_timeout_seconds": self.shutdown_timeout,
            "is_guest_configured": self.guest_configured,
            "has_no_credential_injection": None if injection is None else not injection,
            "os_features": self.os_features,
        }

    def _support(self, image: image_pb2.Image) -> list[str]:
        added = image_choice.support(self.support, "--support")
        removed = [image_choice.mark_field(name, "--remove-support") for name in self.remove_support]
        image.server_support.MergeFrom(added)
        for name in removed:
            image.server_support.ClearField(name)  # type: ignore[arg-type]  # it is a field of it
        return [f"server_support.{name}" for name in (*(f.name for f, _ in added.ListFields()), *removed)]


@command(app, "set", example="imsctl image set debian-12 --protect --property owner=web --tag stage=live")
async def set_(session: Session, image: ImageArgument, options: SetOptions) -> None:
    """Change what is known of an image, and protect it."""
    if not options.apply_to(image_pb2.Image()):
        raise typer.BadParameter("nothing to change: give at least one option")
    async with session.connect() as client:
        current = await client.images.resolve(image)
        paths = options.apply_to(current)
        updated = await client.images.update(current, paths, current.etag)
    print_image(session, updated)
