"""`imsctl image list` and `imsctl image export-list`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import typer

from imsd.v1 import image_pb2

from . import choice, image_choice
from .command import command
from .image_app import app
from .image_list_file import write_list
from .image_output import print_images
from .output import TableJsonOrCsv
from .paging import take
from .session import Session

# As they are written here → as the contract writes them.
SORT_FIELDS = {
    **{name: name for name in ("created_at", "updated_at", "name", "virtual_size")},
    **{name: name for name in ("status", "disk_format", "id", "min_disk")},
    "size": "virtual_size",
}
REPEATED = "may be repeated."
TIME_HELP = (
    "OP:TIME with gt, gte, lt, lte, eq or neq and a UTC time, gte:2026-05-01 for example; may be repeated."
)


def _several(metavar: str, text: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(metavar=metavar, help=f"{text}; {REPEATED}")
    return option


@dataclass(frozen=True, kw_only=True)
class ChoiceOptions:
    """Which images of the project are meant."""

    name: Annotated[str, typer.Option(metavar="NAME", help="Only this name; * stands for anything.")] = ""
    search: Annotated[
        str, typer.Option(metavar="TEXT", help="A part of the name, the id or the system, in any case.")
    ] = ""
    status: Annotated[
        list[str], _several("STATUS", "queued, saving, active, deactivated or pending-delete")
    ] = field(default_factory=list)
    format: Annotated[list[str], _several("FORMAT", "Only images made of this")] = field(default_factory=list)
    tag: Annotated[list[str], _several("K[=V]", "Only with this tag")] = field(default_factory=list)
    kind: Annotated[list[str], _several("KIND", "system-disk, data-disk or iso")] = field(
        default_factory=list
    )
    visibility: Annotated[list[str], _several("WHO", "private, shared or public")] = field(
        default_factory=list
    )
    store: Annotated[list[str], _several("NAME", "Only in this store")] = field(default_factory=list)
    id: Annotated[str, typer.Option(metavar="ID", help="Only this one.")] = ""
    owner: Annotated[str, typer.Option(metavar="PROJECT", help="Only of this project.")] = ""
    family: Annotated[str, typer.Option(metavar="FAMILY", help="Only of this family.")] = ""
    os_type: Annotated[list[str], _several("TYPE", "linux, windows or other")] = field(default_factory=list)
    os_bits: Annotated[list[int], _several("BITS", "32 or 64")] = field(default_factory=list)
    os_version: Annotated[list[str], _several("TEXT", "Exactly this system")] = field(default_factory=list)
    platform: Annotated[list[str], _several("NAME", "Debian, CentOS, Windows …")] = field(
        default_factory=list
    )
    arch: Annotated[list[str], _several("ARCH", "x86 or arm")] = field(default_factory=list)
    boot_mode: Annotated[list[str], _several("MODE", "bios or uefi")] = field(default_factory=list)
    server_kind: Annotated[list[str], _several("KIND", "virtual or bare-metal")] = field(default_factory=list)
    support: Annotated[list[str], _several("MARK[=TYPE]", "Only with this mark, for example kvm")] = field(
        default_factory=list
    )
    enterprise_project: Annotated[str, typer.Option(metavar="ID", help="Only of this one: 0 or a UUID.")] = ""
    min_disk: Annotated[int | None, typer.Option(metavar="GB", help="Exactly this smallest disk.")] = None
    min_ram: Annotated[int | None, typer.Option(metavar="MB", help="Exactly this least memory.")] = None
    protected: Annotated[
        bool | None, typer.Option("--protected/--unprotected", help="Whether they can be deleted.")
    ] = None
    deprecated: Annotated[
        bool | None, typer.Option("--deprecated/--not-deprecated", help="Whether they are superseded.")
    ] = None
    published: Annotated[
        bool | None, typer.Option("--published/--unpublished", help="Whether in the marketplace.")
    ] = None
    encrypted: Annotated[
        bool | None, typer.Option("--encrypted/--not-encrypted", help="Whether their bytes are encrypted.")
    ] = None
    encrypted_with: Annotated[str, typer.Option(metavar="ID", help="Only under the key with this id.")] = ""
    created: Annotated[list[str], typer.Option(metavar="OP:TIME", help=TIME_HELP)] = field(
        default_factory=list
    )
    updated: Annotated[list[str], typer.Option(metavar="OP:TIME", help=TIME_HELP)] = field(
        default_factory=list
    )

    def filter(self) -> image_pb2.ImageFilter:
        """Raises typer.BadParameter."""
        return image_pb2.ImageFilter(
            name=self.name,
            search=self.search,
            statuses=[image_choice.status(text) for text in self.status],
            disk_formats=[image_choice.disk_format(text) for text in self.format],
            tags=choice.key_values((tag if "=" in tag else f"{tag}=" for tag in self.tag), "--tag"),
            kinds=[image_choice.kind(text) for text in self.kind],
            visibilities=[image_choice.visibility(text) for text in self.visibility],
            stores=self.store,
            id=self.id,
            owner_project_id=self.owner,
            family=self.family,
            os_types=[image_choice.os_type(text) for text in self.os_type],
            os_bits=self.os_bits,
            os_versions=self.os_version,
            platforms=self.platform,
            architectures=[image_choice.architecture(text) for text in self.arch],
            boot_modes=[image_choice.boot_mode(text) for text in self.boot_mode],
            server_kinds=[image_choice.server_kind(text) for text in self.server_kind],
            server_support=image_choice.support(self.support, "--support"),
            enterprise_project_id=self.enterprise_project,
            min_disk_gb=self.min_disk,
            min_ram_mb=self.min_ram,
            is_protected=self.protected,
            is_deprecated=self.deprecated,
            is_published=self.published,
            is_encrypted=self.encrypted,
            key_id=self.encrypted_with,
            created_at=[image_choice.time_filter(text, "--created") for text in self.created],
            updated_at=[image_choice.time_filter(text, "--updated") for text in self.updated],
        )


@dataclass(frozen=True, kw_only=True)
class ListOptions(ChoiceOptions):
    """Which images are meant, and how they are listed."""

    public: Annotated[bool, typer.Option("--public", help="The public images.")] = False
    shared: Annotated[bool, typer.Option("--shared", help="Images that others share with the project.")] = (
        False
    )
    all: Annotated[bool, typer.Option("--all", help="Its own, public ones and shared ones.")] = False
    share_status: Annotated[
        list[str], _several("STATUS", "Of shared images: accepted (if not said), pending, rejected")
    ] = field(default_factory=list)
    server_type: Annotated[
        str, typer.Option(metavar="TYPE", help="Only what this type of server takes, for example S6.")
    ] = ""
    sort: Annotated[
        str,
        typer.Option(metavar="FIELD[:desc]", help=f"By {', '.join(SORT_FIELDS)}; newest first unless given."),
    ] = ""
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="At most N images; 0: all.")] = 0

    def filter(self) -> image_pb2.ImageFilter:
        """Raises typer.BadParameter."""
        found = super().filter()
        found.scope = self._scope()
        found.member_statuses.extend(image_choice.member_status(text) for text in self.share_status)
        found.server_type = self.server_type
        return found

    def order(self) -> str:
        """``sort`` as the contract writes it. Raises typer.BadParameter."""
        name, _, direction = self.sort.replace(" ", ":").partition(":")
        if self.sort and (name not in SORT_FIELDS or direction not in ("", "asc", "desc")):
            known = ", ".join(SORT_FIELDS)
            raise typer.BadParameter(f"{self.sort!r} is not FIELD[:desc] with a field of: {known}")
        column = SORT_FIELDS.get(name, "")
        return f"{column} desc" if direction == "desc" else column

    def _scope(self) -> image_pb2.ImageFilter.Scope.ValueType:
        scopes = image_pb2.ImageFilter
        chosen = [
            scope
            for is_chosen, scope in (
                (self.public, scopes.SCOPE_PUBLIC),
                (self.shared, scopes.SCOPE_SHARED_WITH_ME),
                (self.all, scopes.SCOPE_ALL),
            )
            if is_chosen
        ]
        if len(chosen) > 1:
            raise typer.BadParameter("give one of --public, --shared and --all")
        if self.share_status and not (self.shared or self.all):
            raise typer.BadParameter("say with --shared or --all which images of others are meant")
        return chosen[0] if chosen else scopes.SCOPE_OWN


@command(
    app,
    "list",
    formats=TableJsonOrCsv,
    example=[
        "imsctl image list --tag team=core --sort name -o csv",
        "imsctl image list --all --search debian --arch arm --not-deprecated",
        "imsctl image list --status pending-delete",
    ],
)
async def list_(session: Session, options: ListOptions) -> None:
    """Show the images of the project, or public or shared ones."""
    filter, order = options.filter(), options.order()
    async with session.connect() as client:
        found = await take(client.images.list(filter, order), options.limit)
    is_own = filter.scope == image_pb2.ImageFilter.SCOPE_OWN
    print_images(session, found, has_owner=not is_own)


@command(
    app,
    "export-list",
    example=["imsctl image export-list", "imsctl image export-list --public --to - | head"],
)
async def export_list(
    session: Session,
    public: Annotated[
        bool, typer.Option("--public", help="The public images, not those of the project.")
    ] = False,
    to: Annotated[
        str, typer.Option(metavar="FILE|-", help="Where to; otherwise a file named by the daemon, here.")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write the list of images as a CSV file for spreadsheets."""
    async with session.connect() as client:
        await write_list(session, client.images.list_file(is_public=public), to, may_replace=force)
