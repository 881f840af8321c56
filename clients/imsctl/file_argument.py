"""An argument that may name a file on this machine, an image, or neither."""

from __future__ import annotations

import errno
import os
import re

import typer
from ims_client import CallFailed, ImsClient, LocalFileFailed

from imsd.v1 import image_pb2

FETCHED_SCHEMES = ("https", "http")  # the daemon says what it thinks of the second

_URL = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_OBJECT = re.compile(r"[\w.-]+:.+", re.DOTALL)


def names_a_file(what: str) -> bool:
    """Whether ``what`` is meant as a file and not as an image."""
    return os.sep in what or os.path.exists(what)


def scheme_of(what: str) -> str:
    """The scheme of a URL, small; empty for what is none."""
    found = _URL.match(what)
    return found[1].lower() if found else ""


def require_no_object(what: str) -> None:
    """``what`` is there, or no BUCKET:OBJECT that lacks its option. Raises LocalFileFailed."""
    if _OBJECT.fullmatch(what) and not os.path.lexists(what):
        raise LocalFileFailed(
            f"cannot read {what}: {os.strerror(errno.ENOENT)}",
            "an object of a bucket: add --from-bucket; a file: check the path",
        )


def require_local(what: str, param_hint: str) -> None:
    """``what`` can be read here, in any order, if it is a file at all. Raises typer.BadParameter."""
    if what == "-":
        raise typer.BadParameter(
            "standard input cannot be read in any order, as a disk is: name a file", param_hint=param_hint
        )
    scheme = scheme_of(what)
    if scheme in FETCHED_SCHEMES:
        raise typer.BadParameter(
            "only files of this machine are read here: `imsctl image import` lets the daemon fetch a URL",
            param_hint=param_hint,
        )
    refuse_scheme(scheme, param_hint)


def refuse_scheme(scheme: str, param_hint: str) -> None:
    """Refuse a URL that nobody fetches. Raises typer.BadParameter."""
    if scheme == "file":
        raise typer.BadParameter("only https:// URLs are fetched: give the path alone", param_hint=param_hint)
    if scheme and scheme not in FETCHED_SCHEMES:
        raise typer.BadParameter(f"only https:// URLs are fetched, not {scheme}://", param_hint=param_hint)


async def resolve_image(client: ImsClient, name_or_id: str) -> image_pb2.Image:
    """The image of that name; for what is no file either. Raises `CallFailed`."""
    try:
        return await client.images.resolve(name_or_id)
    except CallFailed as error:
        if error.reason == "NOT_FOUND":
            error.message += ", and no such file here"
        elif error.is_transient:
            error.message = f"there is no file {name_or_id!r} here; to look for an image: {error.message}"
        raise
