"""The group `imsctl store`, to which several modules add their commands."""

from __future__ import annotations

from typing import Annotated

import typer

from .command import group

app = group("Stores, in which images lie: for operators.", "imsctl store list")

StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="The configured name of a store.")]
# Whoever names none means the default one.
OptionalStore = Annotated[
    str, typer.Argument(metavar="[STORE]", help="The configured name of a store; else the default one.")
]
