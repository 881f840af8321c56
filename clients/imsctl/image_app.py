"""The group `imsctl image`, to which several modules add their commands."""

from __future__ import annotations

from typing import Annotated

import typer

from .command import group

app = group("Disk images.", "imsctl image import disk.qcow2 --name debian-12")

ImageArgument = Annotated[
    str, typer.Argument(metavar="IMAGE", help="An id, a unique id prefix or a unique name.")
]
