"""`imsctl os-version`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from imsd.v1 import guest_pb2

from . import choice, wording
from .command import command, group
from .json_fields import enum_text
from .output import print_json, print_table
from .session import Session

app = group("Supported operating systems.", "imsctl os-version list --arch arm")


@command(
    app,
    "list",
    example=["imsctl os-version list --arch arm", "imsctl os-version list --server-type S6 --uefi"],
)
async def list_(
    session: Session,
    arch: Annotated[str, typer.Option(metavar="ARCH", help="Only x86 or arm.")] = "",
    uefi: Annotated[bool, typer.Option("--uefi", help="Only systems that may boot by UEFI.")] = False,
    server_type: Annotated[
        str, typer.Option(metavar="TYPE", help="Only what this type of server takes, for example S6.")
    ] = "",
) -> None:
    """Show which operating systems are supported, and on which types of servers.

    A version that ends in .x stands for all of them. An image may hold any other system too: it is then
    for you to test that it works.
    """
    architecture = guest_pb2.Architecture.ValueType(choice.choose(guest_pb2.Architecture, arch, "--arch"))
    async with session.connect() as client:
        found = await client.catalog.list_os_versions(architecture, server_type, is_uefi_supported=uefi)
    if session.is_json:
        print_json([_fields(one) for one in found])
        return
    print_table(
        ("OS VERSION", "ARCH", "UEFI", "SERVER TYPES"),
        [
            (
                one.os_version,
                enum_text(guest_pb2.Architecture, one.architecture),
                wording.yes_no(one.is_uefi_supported),
                " ".join(one.server_types),
            )
            for one in found
        ],
    )


def _fields(one: guest_pb2.OsVersion) -> dict[str, Any]:
    return {
        "platform": one.platform,
        "os_version": one.os_version,
        "os_type": enum_text(guest_pb2.OsType, one.os_type),
        "bits": one.bits,
        "architecture": enum_text(guest_pb2.Architecture, one.architecture),
        "server_types": list(one.server_types),
        "uefi_supported": one.is_uefi_supported,
        "tables": list(one.tables),
    }
