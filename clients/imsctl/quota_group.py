"""`imsctl quota`."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from imsd.v1 import quota_pb2

from . import wording
from .command import command, group
from .json_fields import Fields
from .output import print_json, print_table
from .session import Session

app = group("What a project may have.", "imsctl quota show --project web")

UNLIMITED = -1
_HIGHEST = 10**18  # of SetQuotaRequest.quota
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_NUMBER = re.compile(r"([0-9]{1,19})([KMGT]?)(?:i?B)?\Z")

ResourceArgument = Annotated[
    str, typer.Argument(metavar="RESOURCE", help="images, uploads, staged_bytes, shared_images ...")
]


@command(app, "show", example="imsctl quota show --project web")
async def show(session: Session) -> None:
    """Show the quotas of the project, and how much of each is used."""
    async with session.connect() as client:
        found = await client.quotas.get()
    if session.is_json:
        quotas = [quota_fields(quota) for quota in found.quotas]
        print_json({"project_id": found.project_id, "quotas": quotas})
        return
    rows = [
        (quota.resource, _text(quota, quota.used), _text(quota, quota.quota), quota.summary, quota.source)
        for quota in found.quotas
    ]
    print_table(("RESOURCE", "USED>", "QUOTA>", "WHAT", "SOURCE"), rows)


@command(
    app,
    "set",
    example=["imsctl quota set images 200 --project web", "imsctl quota set staged_bytes 2TiB --project web"],
)
async def set_(
    session: Session,
    resource: ResourceArgument,
    quota: Annotated[str, typer.Argument(metavar="N|unlimited", help="How much; bytes may be 2TiB, say.")],
) -> None:
    """Give the project a quota of its own. For operators.

    One below what is used takes nothing away: it refuses more.
    """
    value = _number(quota)
    async with session.connect() as client:
        _print_quota(session, await client.quotas.set(resource, value))


@command(app, "unset", example="imsctl quota unset images --project web")
async def unset(session: Session, resource: ResourceArgument) -> None:
    """Let the default hold again for the project. For operators."""
    async with session.connect() as client:
        _print_quota(session, await client.quotas.set(resource, None))


def quota_fields(quota: quota_pb2.Quota) -> Fields:
    return {
        "resource": quota.resource,
        "used": quota.used,
        "quota": quota.quota,
        "default_quota": quota.default_quota,
        "summary": quota.summary,
        "source": quota.source,
    }


def _print_quota(session: Session, quota: quota_pb2.Quota) -> None:
    if session.is_json:
        print_json(quota_fields(quota))
    else:
        print(f"{quota.resource}: {_text(quota, quota.used)} of {_text(quota, quota.quota)} used")


def _text(quota: quota_pb2.Quota, value: int) -> str:
    if value == UNLIMITED:
        return "unlimited"
    return wording.size(value) if quota.resource.endswith("_bytes") else str(value)


def _number(text: str) -> int:
    """Raises typer.BadParameter."""
    if text == "unlimited":
        return UNLIMITED
    found = _NUMBER.match(text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is neither a number nor unlimited", param_hint="N|unlimited")
    if (value := int(found[1]) * _UNITS[found[2]]) > _HIGHEST:
        raise typer.BadParameter(f"{text!r} is more than {_HIGHEST}", param_hint="N|unlimited")
    return value
