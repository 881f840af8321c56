"""What is asked for when lists are measured: every question in the languages of imsd and of Glance."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

import grpc
from google.protobuf.message import Message

from imsd.v1 import image_pb2 as pb
from imsd.v1 import image_pb2_grpc
from tests.benchmark.load import ask_http
from tests.benchmark.made_images import LARGE_PROJECT, SYSTEMS, TIERS, MadeImage

LIST = "/imsd.v1.ImageService/ListImages"
SHOW = "/imsd.v1.ImageService/GetImage"

PAGE_SIZE = 25  # what Glance gives who does not ask for a number
VARIANTS = 200  # of each question, asked in turn
COMPARED = 10  # of them, before anything is timed


@dataclass(frozen=True, slots=True)
class Asked:
    """One request to both services."""

    ours: Message
    glance: str  # path and query of a GET


@dataclass(frozen=True, slots=True)
class Question:
    """One kind of request to ``method``."""

    job: str
    method: str
    asked: Sequence[Asked]


async def make_questions(address: str, made: Sequence[MadeImage]) -> list[Question]:
    """About ``made``, of which the daemon at ``address`` tells the tokens of its pages."""
    dice = random.Random(2)
    projects = [dice.choice(made).project_id for _ in range(VARIANTS)]
    names = [
        _list(project, pb.ImageFilter(name=system), name=system)
        for project in projects
        if (system := dice.choice(SYSTEMS))
    ]
    tags = [
        _list(project, pb.ImageFilter(tags={"tier": tier}), tag=f"tier={tier}")
        for project in projects
        if (tier := dice.choice(TIERS))
    ]
    active = pb.ImageFilter(statuses=[pb.IMAGE_STATUS_ACTIVE], disk_formats=[pb.DISK_FORMAT_QCOW2])
    formats = [_list(project, active, status="active", disk_format="qcow2") for project in projects]
    return [
        Question("first page of a project", LIST, [_list(project) for project in projects]),
        Question("page deep in a project of 10,000", LIST, await _deep_pages(address)),
        Question("first page, of one name", LIST, names),
        Question("first page, active and of one format", LIST, formats),
        Question("first page, with a tag", LIST, tags),
        Question("one image", SHOW, [_show(dice.choice(made)) for _ in range(VARIANTS)]),
    ]


def _list(project: str, fit: pb.ImageFilter | None = None, token: str = "", **query: str) -> Asked:
    ours = pb.ListImagesRequest(project_id=project, page_size=PAGE_SIZE, filter=fit, page_token=token)
    return Asked(ours, "/v2/images?" + urlencode({"limit": PAGE_SIZE, "owner": project, **query}))


def _show(image: MadeImage) -> Asked:
    return Asked(pb.GetImageRequest(project_id=image.project_id, image_id=image.id), f"/v2/images/{image.id}")


async def _deep_pages(address: str) -> list[Asked]:
    """Pages in the middle half of the large project."""
    asked: list[Asked] = []
    request = pb.ListImagesRequest(project_id=LARGE_PROJECT, page_size=PAGE_SIZE)
    async with grpc.aio.insecure_channel(address) as channel:
        list_images = image_pb2_grpc.ImageServiceStub(channel).ListImages
        while (page := await list_images(request)).next_page_token:
            token, marker = page.next_page_token, page.images[-1].id
            asked.append(_list(LARGE_PROJECT, token=token, marker=marker))
            request.page_token = token
    middle = asked[len(asked) // 4 : -len(asked) // 4 or None]
    return random.Random(3).sample(middle, min(VARIANTS, len(middle)))


def http_request(port: int, path: str) -> bytes:
    """A whole request; Glance's own documentation has it close each connection."""
    lines = (
        f"GET {path} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Accept: application/json",
        "Connection: close",
    )
    return "\r\n".join([*lines, "", ""]).encode()


async def require_same_answers(address: str, port: int, question: Question) -> None:
    """Raises RuntimeError unless both services give the same images in the same order."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = image_pb2_grpc.ImageServiceStub(channel)
        found = 0
        for each in question.asked[:COMPARED]:
            if question.method == SHOW:
                ours = [(await stub.GetImage(each.ours)).id]
            else:
                ours = [image.id for image in (await stub.ListImages(each.ours)).images]
            answer = json.loads(await ask_http("127.0.0.1", port, http_request(port, each.glance)))
            theirs = [image["id"] for image in answer.get("images", [answer])]
            if ours != theirs:
                raise RuntimeError(f"{question.job}: {each} gives {ours} here and {theirs} there")
            found += len(ours)
        if not found:
            raise RuntimeError(f"{question.job}: nothing was found")
