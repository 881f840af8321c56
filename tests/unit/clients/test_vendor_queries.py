"""The query of the hosted service's list of images: every parameter, and what it finds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from ims_client import vendor_queries
from ims_client.vendor_names import to_vendor

from imsd.core.images import Images
from imsd.grpc_server.convert_image_fields import image_to_pb
from imsd.grpc_server.convert_image_query import image_query_from_pb
from imsd.metadata import images as image_rows
from imsd.metadata import members
from imsd.metadata.database import Database, open_database
from imsd.metadata.records import (
    ImageKind,
    ImageRecord,
    ImageStatus,
    MemberRecord,
    MemberStatus,
    ServerKind,
    Visibility,
)
from imsd.testing.memory_store import MemoryStore
from imsd.v1 import image_pb2 as pb
from tests.unit.core.core_world import STORE, open_runtime, pool_of
from tests.unit.metadata.samples import START, an_image, at

ME, OTHER, LABEL = "lab", "other", "11111111-2222-4333-8444-555555555555"

# Every parameter of the contract's §3.10, in its order; the flags of boards are all marks of `ServerSupport`.
CONTRACT = [
    "__imagetype",
    "visibility",
    "protected",
    "__isregistered",
    "owner",
    "id",
    "name",
    "status",
    "flavor_id",
    "container_format",
    "disk_format",
    "min_ram",
    "min_disk",
    "__os_bit",
    "__os_type",
    "__platform",
    "__os_version",
    "architecture",
    "virtual_env_type",
    "__whole_image",
    "__system__cmkid",
    "tag",
    "member_status",
    "__support_kvm",
    "__support_xen",
    "__support_largememory",
    "__support_diskintensive",
    "__support_highperformance",
    "__support_xen_gpu_type",
    "__support_kvm_gpu_type",
    "__support_xen_hana",
    "__support_kvm_infiniband",
    "__support_s4l",
    "enterprise_project_id",
    "created_at",
    "updated_at",
    "sort_key",
    "sort_dir",
    "limit",
    "marker",
]


def images_of_all_sorts() -> list[ImageRecord]:
    theirs: dict[str, Any] = {"project_id": OTHER, "visibility": Visibility.SHARED}
    return [
        an_image(
            name="plain", platform="Red Hat", os_version="Other_Linux (32_bit)", os_bits=32, disk_format="raw"
        ),
        an_image(name="locked", is_protected=True, disk_format="vmdk", os_type="windows", architecture="arm"),
        an_image(
            name="sold", is_published=True, disk_format="zvhd2", tags={"team": "web"}, updated_at=at(60)
        ),
        an_image(name="lent", visibility=Visibility.SHARED, kind=ImageKind.DATA_DISK, created_at=at(-60)),
        an_image(name="own-gold", visibility=Visibility.PUBLIC, min_ram_mb=512, min_disk_gb=77),
        an_image(name="gold", project_id=OTHER, visibility=Visibility.PUBLIC, is_protected=True),
        an_image(name="metal", server_kind=ServerKind.BARE_METAL, server_support={"has_s4l": True}),
        an_image(name="disc", kind=ImageKind.ISO, disk_format="iso", status=ImageStatus.DEACTIVATED),
        an_image(name="paid", enterprise_project_id=LABEL, server_support={"kvm_gpu_type": "V100"}),
        an_image(name="accepted", **theirs),
        an_image(name="rejected", **theirs),
        an_image(name="pending", **theirs),
        an_image(name="foreign", project_id=OTHER),
    ]


@pytest.fixture
async def images(tmp_path: Path) -> AsyncIterator[Images]:
    async with (
        open_database(f"sqlite+aiosqlite:///{tmp_path}/db.sqlite3") as database,
        open_runtime(database, pool_of(**{STORE: MemoryStore()})) as runtime,
    ):
        await fill(database)
        yield Images(runtime)


async def fill(database: Database) -> None:
    async with database.transaction() as c:
        for record in images_of_all_sorts():
            await image_rows.insert_image(c, record)
            for project_id, status in shares_of(record.name):
                member = MemberRecord(
                    image_id=record.id,
                    project_id=project_id,
                    status=status,
                    created_at=START,
                    updated_at=START,
                )
                await members.insert_member(c, member)


def shares_of(name: str) -> list[tuple[str, MemberStatus]]:
    if name == "lent":
        return [(OTHER, MemberStatus.ACCEPTED)]
    return [(ME, status) for status in MemberStatus if status.value == name]


async def found(images: Images, *pairs: tuple[str, str]) -> list[pb.Image]:
    request = vendor_queries.list_request(pairs)
    if request is None:
        return []
    request.project_id = ME
    records, _ = await images.list(image_query_from_pb(request), request.page_size, request.page_token)
    return [image_to_pb(record) for record in records]


def test_every_parameter_of_the_contract_is_there_and_no_other() -> None:
    names = [parameter.name for parameter in vendor_queries.PARAMETERS]
    assert len(names) == len(set(names))
    boards = {name for name in names if name.startswith("__support_")}
    assert set(names) - boards <= set(CONTRACT) <= set(names)


def test_every_parameter_has_a_field_or_says_why_not() -> None:
    known = {
        field.name for field in (*pb.ListImagesRequest.DESCRIPTOR.fields, *pb.ImageFilter.DESCRIPTOR.fields)
    }
    for parameter in vendor_queries.PARAMETERS:
        assert set(parameter.fields) <= known, parameter
        assert parameter.fields or parameter.note, parameter


VISIBLE = ["accepted", "disc", "gold", "lent", "locked", "metal", "own-gold", "paid", "plain", "sold"]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", VISIBLE),
        # What the console of that service asks for.
        ("__imagetype=gold&visibility=public&protected=true", ["gold", "own-gold"]),
        ("owner=lab", ["disc", "lent", "locked", "metal", "own-gold", "paid", "plain", "sold"]),
        ("member_status=accepted&visibility=shared&__imagetype=shared", ["accepted"]),
        ("member_status=pending&visibility=shared&__imagetype=shared", ["pending"]),
        ("member_status=rejected", ["rejected"]),
        ("__imagetype=shared", ["accepted", "lent"]),
        ("__imagetype=private", ["disc", "locked", "metal", "paid", "plain"]),
        ("visibility=private", ["disc", "locked", "metal", "paid", "plain", "sold"]),
        ("__imagetype=market", ["sold"]),
        ("__imagetype=market&visibility=public", []),
        ("protected=True&visibility=private", ["locked"]),
        ("protected=false", ["accepted", "disc", "lent", "metal", "paid", "plain", "sold"]),
        ("protected=false&visibility=public", []),
        ("__isregistered=true&container_format=bare&__whole_image=false", VISIBLE),
        ("__isregistered=false", []),
        ("container_format=ovf", []),
        ("__whole_image=true", []),
        ("__system__cmkid=k", []),
        ("name=gold", ["gold"]),
        ("name=*old", []),
        ("status=deactivated", ["disc"]),
        ("status=killed", []),
        ("disk_format=zvhd2", ["locked", "sold"]),
        ("disk_format=raw", ["plain"]),
        ("disk_format=vmdk", []),
        ("min_ram=512", ["own-gold"]),
        ("min_disk=77", ["own-gold"]),
        ("__os_bit=32", ["plain"]),
        ("__os_type=Windows", ["locked"]),
        ("__platform=RedHat", ["plain"]),
        ("__os_version=Other Linux(32 bit)", ["plain"]),
        ("architecture=arm", ["locked"]),
        ("virtual_env_type=Ironic", ["metal"]),
        ("virtual_env_type=DataImage", ["lent"]),
        ("virtual_env_type=IsoImage", ["disc"]),
        ("tag=team=web", ["sold"]),
        ("tag=team.web&tag=team=shop", []),
        ("__support_s4l=true", ["metal"]),
        ("__support_s4l=false", []),
        ("__support_kvm_gpu_type=V100", ["paid"]),
        (f"enterprise_project_id={LABEL}", ["paid"]),
        ("enterprise_project_id=all_granted_eps", VISIBLE),
        ("created_at=lt:2026-05-01T12:00:00Z&created_at=gte:1970-01-01 00:00:00", ["lent"]),
        ("marker=&sort_key=name", VISIBLE),
    ],
)
async def test_a_query_finds_what_it_names(images: Images, query: str, names: list[str]) -> None:
    assert sorted(image.name for image in await found(images, *pairs_of(query))) == names


def pairs_of(query: str) -> list[tuple[str, str]]:
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    return [(name, value) for name, _, value in pairs]


@pytest.mark.parametrize("name", ["__imagetype", "visibility", "status", "disk_format", "virtual_env_type"])
async def test_what_an_image_is_written_with_finds_it(images: Images, name: str) -> None:
    for image in [each for each in await found(images) if name in to_vendor(each)]:
        again = await found(images, (name, to_vendor(image)[name]))
        assert image.id in [each.id for each in again]


async def test_orders_and_pages_are_read(images: Images) -> None:
    assert [image.name for image in await found(images)][-1] == "lent"  # the oldest
    by_name = await found(images, ("sort_key", "name"), ("sort_dir", "asc"), ("limit", "3"))
    assert [image.name for image in by_name] == VISIBLE[:3]
    for key in ("container_format", "disk_format", "status", "id", "size", "created_at"):
        assert len(await found(images, ("sort_key", key))) == len(VISIBLE)
    request = vendor_queries.list_request([("marker", "m"), ("limit", "5000")])
    assert request is not None
    assert (request.page_token, request.page_size, request.order_by) == ("m", 1000, "created_at desc")
    request = vendor_queries.list_request([("flavor_id", "s6.large.2")])
    assert request is not None
    assert request.filter.server_type == "s6"
    request = vendor_queries.list_request([])
    assert request is not None
    assert request.page_size == 500


@pytest.mark.parametrize(
    "query",
    [
        "color=blue",
        "name=a&name=b",
        "visibility=everybody",
        "__imagetype=silver",
        "protected=1&visibility=private",
        "protected=true",
        "status=on",
        "min_disk=many",
        "min_ram=9999999999",
        "__os_bit=x",
        "__os_type=BeOS",
        "flavor_id=.large.2",
        "architecture=mips",
        "virtual_env_type=Toaster",
        "member_status=maybe",
        "__support_kvm=yes",
        "created_at=2026-01-01T00:00:00Z",
        "created_at=gt:yesterday",
        "sort_key=color",
        "sort_dir=up",
        "limit=0",
        "limit=-1",
    ],
)
def test_what_is_no_query_is_refused_by_its_name(query: str) -> None:
    [*_, (name, _)] = pairs_of(query.partition("&")[0])
    with pytest.raises(ValueError, match=f"^{name}: "):
        vendor_queries.list_request(pairs_of(query))
