"""The options of `imsctl image import` and `imsctl image register`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import typer
from ims_client import UploadOptions

from imsd.v1 import image_pb2

from . import choice, image_choice

# The upload of an import with a request id has one too, made of that.
UPLOAD_SUFFIX = ".upload"


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """The options that say where the file of an image is, and how it gets to the daemon."""

    sha256: Annotated[str, typer.Option(metavar="HEX", help="The file's SHA-256, checked by the daemon.")] = (
        ""
    )
    detach: Annotated[bool, typer.Option("--detach", help="Return when the job is started; print it.")] = (
        False
    )
    send_bytes: Annotated[
        bool,
        typer.Option("--send-bytes", help="Send the bytes even if the daemon could read the file itself."),
    ] = False
    delta: Annotated[
        bool | None,
        typer.Option(
            "--delta/--no-delta",
            help="Send only what no image of the project holds; usual for a raw file that is sent elsewhere.",
        ),
    ] = None
    on_server: Annotated[
        bool,
        typer.Option("--on-server", help="FILE is a path on the daemon's machine, which the daemon opens."),
    ] = False
    from_bucket: Annotated[
        bool, typer.Option("--from-bucket", help="FILE is BUCKET:OBJECT, which the daemon reads.")
    ] = False
    request_id: Annotated[
        str, typer.Option(metavar="ID", help="Start at most one job; a repeat gets what the first made.")
    ] = ""

    store: Annotated[
        str, typer.Option(metavar="NAME", help="Where the image is to lie; see `imsctl store list`.")
    ] = ""

    def is_fetched(self) -> bool:
        """Whether FILE names what the daemon gets itself, and is no URL."""
        return self.on_server or self.from_bucket

    def upload_options(
        self, disk_format: image_pb2.DiskFormat.ValueType, *, is_fast: bool = False, key: str = ""
    ) -> UploadOptions:
        """Raises typer.BadParameter."""
        from imsd.chunks.tree_digest import TreeHasher

        return UploadOptions(
            request_id=f"{self.request_id}{UPLOAD_SUFFIX}" if self.request_id else "",
            disk_format=disk_format,
            expected_sha256=choice.sha256(self.sha256, "--sha256"),
            new_hasher=TreeHasher,
            may_hand_over=not self.send_bytes and not self.delta,
            is_fast=is_fast,
            delta=self.delta,
            store=self.store,
            key=key,
        )


@dataclass(frozen=True, kw_only=True)
class ImportOptions(FileOptions):
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the image.")]
    format: Annotated[
        str, typer.Option(metavar="FORMAT", help="What the file must be, for example qcow2; else recognised.")
    ] = ""
    os_version: Annotated[
        str, typer.Option(metavar="TEXT", help='For example "Debian GNU/Linux 12.0.0 64bit".')
    ] = ""
    arch: Annotated[
        str, typer.Option(metavar="ARCH", help="x86 or arm; counts where no system is found inside.")
    ] = ""
    boot_mode: Annotated[
        str, typer.Option(metavar="MODE", help="bios or uefi; otherwise by what is found inside.")
    ] = ""
    min_disk: Annotated[
        int,
        typer.Option(
            metavar="GB",
            min=0,
            max=choice.MAX_DISK_GB,
            help="Smallest disk for a server; 0: as large as the image.",
        ),
    ] = 0
    min_ram: Annotated[
        int, typer.Option(metavar="MB", min=0, max=choice.MAX_RAM_MB, help="Least memory; 0: no limit.")
    ] = 0
    max_ram: Annotated[
        int, typer.Option(metavar="MB", min=0, max=choice.MAX_RAM_MB, help="Most memory; 0: no limit.")
    ] = 0
    tag: Annotated[list[str], typer.Option(metavar="K=V", help="A tag; may be repeated.")] = field(
        default_factory=list
    )
    property: Annotated[list[str], typer.Option(metavar="K=V", help="A property; may be repeated.")] = field(
        default_factory=list
    )
    description: Annotated[str, typer.Option(metavar="TEXT", help="What the image is.")] = ""
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            help="Keep a RAW or ZVHD2 file as it comes, up to 1 TB; the system in it is not looked at.",
        ),
    ] = False
    kind: Annotated[
        str, typer.Option(metavar="KIND", help="system-disk, data-disk or iso; else by the file.")
    ] = ""
    family: Annotated[
        str, typer.Option(metavar="FAMILY", help="Its series, of which `image resolve` gives the newest.")
    ] = ""
    os_type: Annotated[
        str, typer.Option(metavar="TYPE", help="linux, windows or other; counts where nothing else says it.")
    ] = ""
    server_kind: Annotated[
        str, typer.Option(metavar="KIND", help="virtual or bare-metal: the servers it is for.")
    ] = ""
    license: Annotated[str, typer.Option(metavar="TYPE", help="Of Windows: platform or byol.")] = ""
    support: Annotated[
        list[str],
        typer.Option(
            metavar="MARK[=TYPE]", help="What its system supports, for example kvm; may be repeated."
        ),
    ] = field(default_factory=list)
    enterprise_project: Annotated[
        str, typer.Option(metavar="ID", help="0 or a UUID: a label for billing.")
    ] = ""

    encrypt_with: Annotated[
        str,
        typer.Option(
            metavar="KEY",
            help="Id or name of a key: the image is encrypted in the store; ims/default is the usual one.",
        ),
    ] = ""

    def image_request(self) -> image_pb2.CreateImageRequest:
        """The request for the image, but for its upload. Raises typer.BadParameter."""
        return image_pb2.CreateImageRequest(
            name=self.name,
            description=self.description,
            disk_format=self.disk_format(),
            os_version=self.os_version,
            architecture=image_choice.architecture(self.arch),
            boot_mode=image_choice.boot_mode(self.boot_mode),
            min_disk_gb=self.min_disk,
            min_ram_mb=self.min_ram,
            max_ram_mb=self.max_ram,
            tags=choice.key_values(self.tag, "--tag"),
            properties=choice.key_values(self.property, "--property"),
            kind=image_choice.kind(self.kind),
            family=self.family,
            os_type=image_choice.os_type(self.os_type),
            server_kind=image_choice.server_kind(self.server_kind),
            license_type=image_choice.license_type(self.license),
            server_support=image_choice.support(self.support, "--support"),
            enterprise_project_id=self.enterprise_project,
            is_fast=self.fast,
            store=self.store,
            key=self.encrypt_with,
        )

    def disk_format(self) -> image_pb2.DiskFormat.ValueType:
        return image_choice.disk_format(self.format)

    def options_of_upload(self) -> UploadOptions:
        """Raises typer.BadParameter."""
        return self.upload_options(self.disk_format(), is_fast=self.fast, key=self.encrypt_with)
