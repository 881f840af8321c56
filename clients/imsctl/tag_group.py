"""`imsctl tag`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import typer

from imsd.v1 import image_pb2, tag_pb2

from . import choice, wording
from .command import command, group
from .image_app import ImageArgument
from .image_list import ChoiceOptions
from .json_fields import Fields, enum_text
from .output import print_fields, print_json, print_table, printable
from .session import Session

app = group("Tags of images, and images by their tags.", "imsctl tag set debian-12 stage=live team=core")

TAG_METAVAR = "K[=V[,V]]"


@command(app, "set", example="imsctl tag set debian-12 stage=live team=core")
async def set_(
    session: Session,
    image: ImageArgument,
    tags: Annotated[list[str], typer.Argument(metavar="K=V...", help="Tags; K= is one without a value.")],
) -> None:
    """Add tags to an image, and replace the values of those whose keys are there."""
    given = choice.key_values(tags, "K=V")
    async with session.connect() as client:
        found = await client.images.resolve(image)
        _print_tags(session, await client.tags.set(found.id, given))


@command(app, "delete", example="imsctl tag delete debian-12 stage team")
async def delete(
    session: Session,
    image: ImageArgument,
    keys: Annotated[list[str], typer.Argument(metavar="K...", help="Keys of the tags.")],
    lenient: Annotated[
        bool, typer.Option("--lenient", help="Keys that the image does not have are no error.")
    ] = False,
) -> None:
    """Take tags off an image: all of these or, if one is not there, none."""
    async with session.connect() as client:
        found = await client.images.resolve(image)
        _print_tags(session, await client.tags.delete(found.id, keys, is_lenient=lenient))


@command(app, "show", example="imsctl tag show debian-12 -o json")
async def show(session: Session, image: ImageArgument) -> None:
    """Show the tags of an image."""
    async with session.connect() as client:
        found = await client.images.resolve(image)
        _print_tags(session, await client.tags.get(found.id))


@command(app, "list", example=["imsctl tag list", "imsctl tag list --platform Debian --arch arm"])
async def list_(session: Session, options: ChoiceOptions) -> None:
    """Show every key that images of the project bear, with its values."""
    wanted = options.filter()
    async with session.connect() as client:
        found = [tag async for tag in client.tags.list(wanted)]
    if session.is_json:
        print_json([{"key": tag.key, "values": list(tag.values)} for tag in found])
        return
    print_table(("KEY", "VALUES"), [(tag.key, ", ".join(filter(None, tag.values))) for tag in found])


@dataclass(frozen=True, kw_only=True)
class FilterOptions:
    all: Annotated[
        list[str], typer.Option(metavar=TAG_METAVAR, help="Only images that bear all of these.")
    ] = field(default_factory=list)
    any: Annotated[
        list[str], typer.Option(metavar=TAG_METAVAR, help="Only images that bear one of these.")
    ] = field(default_factory=list)
    not_all: Annotated[
        list[str], typer.Option(metavar=TAG_METAVAR, help="Only images that do not bear all of these.")
    ] = field(default_factory=list)
    not_any: Annotated[
        list[str], typer.Option(metavar=TAG_METAVAR, help="Only images that bear none of these.")
    ] = field(default_factory=list)
    untagged: Annotated[bool, typer.Option("--untagged", help="Only images without a tag.")] = False
    name: Annotated[str, typer.Option(metavar="TEXT", help="Only with this in the name, in any case.")] = ""
    id: Annotated[str, typer.Option(metavar="ID", help="Only the image with this id.")] = ""

    def filter(self) -> tag_pb2.TagFilter:
        """Raises typer.BadParameter."""
        matches = {"resource_name": self.name, "resource_id": self.id}
        return tag_pb2.TagFilter(
            is_untagged=self.untagged,
            all=_conditions(self.all, "--all"),
            any=_conditions(self.any, "--any"),
            not_all=_conditions(self.not_all, "--not-all"),
            not_any=_conditions(self.not_any, "--not-any"),
            matches=[tag_pb2.TagMatch(key=key, value=text) for key, text in matches.items() if text],
        )


@command(
    app,
    "find",
    example=[
        "imsctl tag find --all stage=live,test --not-any retired",
        "imsctl tag find --untagged --name debian",
    ],
)
async def find(
    session: Session,
    options: FilterOptions,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="At most N images.")] = 100,
    offset: Annotated[
        int, typer.Option(metavar="N", min=0, max=1_000_000, help="Leave out the first N.")
    ] = 0,
) -> None:
    """Show the images that fit, newest first.

    An option may be repeated with another key. K alone is any value, K=V,W one of these, K= no value.
    """
    wanted = options.filter()
    async with session.connect() as client:
        found = await client.tags.find(wanted, limit, offset)
    if session.is_json:
        images = [_image_fields(image) for image in found.images]
        print_json({"total_count": found.total_count, "images": images})
        return
    print_table(("ID", "NAME", "STATUS", "TAGS"), [_row(image) for image in found.images])
    if found.total_count > offset + len(found.images):
        session.note(f"{len(found.images)} of {found.total_count}: see --limit and --offset")


@command(app, "count", example="imsctl tag count --all stage=live")
async def count(session: Session, options: FilterOptions) -> None:
    """Print how many images fit; the options are those of `imsctl tag find`."""
    wanted = options.filter()
    async with session.connect() as client:
        total = await client.tags.count(wanted)
    if session.is_json:
        print_json({"total_count": total})
    else:
        print(total)


def _conditions(texts: Iterable[str], option: str) -> Sequence[tag_pb2.TagCondition]:
    conditions = {}
    for text in texts:
        key, separator, values = text.partition("=")
        if not key:
            raise typer.BadParameter(f"{text!r} is not {TAG_METAVAR}", param_hint=option)
        if key in conditions:
            raise typer.BadParameter(f"the key {key} is given twice", param_hint=option)
        conditions[key] = tag_pb2.TagCondition(key=key, values=values.split(",") if separator else [])
    return list(conditions.values())


def _pairs(tags: Iterable[tag_pb2.Tag]) -> dict[str, str]:
    return {tag.key: tag.value for tag in tags}


def _print_tags(session: Session, found: tag_pb2.ImageTags) -> None:
    tags = _pairs(found.tags)
    if session.is_json:
        print_json({"image_id": found.image_id, "tags": tags, "etag": found.etag})
    elif tags:
        print_fields({printable(key): value or "-" for key, value in tags.items()})


def _image_fields(image: tag_pb2.TaggedImage) -> Fields:
    return {
        "id": image.image_id,
        "name": image.name,
        "status": _status(image),
        "tags": _pairs(image.tags),
    }


def _status(image: tag_pb2.TaggedImage) -> str:
    return enum_text(image_pb2.ImageStatus, image.status)


def _row(image: tag_pb2.TaggedImage) -> Sequence[str]:
    return (image.image_id, image.name, _status(image), wording.pairs(_pairs(image.tags)))
