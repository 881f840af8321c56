"""Made-up images of many projects, the same in imsd's database and in Glance's.

The rows are written directly, as the services themselves would have written them: making 100,000 images by
uploads would measure something else.
"""

from __future__ import annotations

import json
import random
import sqlite3
import uuid
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, create_engine, insert

from imsd.guest.report import BootMode, GuestReport, PartitionSummary, Readiness
from imsd.metadata.images import row_of
from imsd.metadata.records import ImageRecord, ImageStatus
from imsd.metadata.rows import in_batches
from imsd.metadata.tables import image, image_tag

IMAGES = 100_000
IMAGES_OF_A_PROJECT = 100  # on average

# One project has a tenth of all images, so that there is a page deep inside; the others share the rest.
LARGE_PROJECT = "project-0000"
LARGE_SHARE = 0.1

SYSTEMS = tuple(
    f"{name}-{version}"
    for name, versions in {
        "debian": ("11", "12", "13"),
        "ubuntu": ("20.04", "22.04", "24.04"),
        "rocky": ("8", "9", "10"),
        "fedora": ("41", "42"),
        "windows": ("2019", "2022", "2025"),
        "opensuse": ("15.6", "16.0"),
    }.items()
    for version in versions
)
TIERS = ("web", "db", "cache", "batch", "edge")
FORMATS = {"qcow2": 6, "raw": 2, "vmdk": 1, "iso": 1}
STATUSES = {"active": 95, "queued": 3, "saving": 2}
START = datetime(2025, 1, 1, tzinfo=UTC)
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class MadeImage:
    id: str
    project_id: str
    name: str
    status: str
    disk_format: str
    size_bytes: int
    created_at: datetime
    tags: dict[str, str]
    properties: dict[str, str]


def made_images(count: int, seed: int = 1) -> list[MadeImage]:
    """Images in the order they were created, one a minute; the same for the same arguments."""
    dice = random.Random(seed)
    projects = max(2, count // IMAGES_OF_A_PROJECT)
    return [_made(dice, number, projects) for number in range(count)]


def _made(dice: random.Random, number: int, projects: int) -> MadeImage:
    is_of_large = dice.random() < LARGE_SHARE
    system, tier = dice.choice(SYSTEMS), dice.choice(TIERS)
    return MadeImage(
        id=str(uuid.UUID(int=dice.getrandbits(128), version=4)),
        project_id=LARGE_PROJECT if is_of_large else f"project-{dice.randrange(1, projects):04}",
        name=system,
        status=dice.choices(list(STATUSES), list(STATUSES.values()))[0],
        disk_format=dice.choices(list(FORMATS), list(FORMATS.values()))[0],
        size_bytes=dice.randrange(1, 64) * GIB,
        created_at=START + timedelta(minutes=number),
        tags={"os": system.partition("-")[0], "tier": tier, "owner": f"team-{dice.randrange(40)}"},
        properties={
            "hw_disk_bus": "virtio",
            "hw_firmware_type": dice.choice(("bios", "uefi")),
            "os_distro": system.partition("-")[0],
            "os_version": system.partition("-")[2],
        },
    )


def write_ours(path: Path, images: Sequence[MadeImage]) -> None:
    """Into the database of a stopped daemon."""
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as c:
        for batch in in_batches(images, 1000):
            _insert_ours(c, batch)
    engine.dispose()


def _insert_ours(c: Connection, images: Iterable[MadeImage]) -> None:
    c.execute(insert(image), [row_of(_record(made)) for made in images])
    tags = [
        {"image_id": made.id, "project_id": made.project_id, "key": key, "value": value}
        for made in images
        for key, value in made.tags.items()
    ]
    c.execute(insert(image_tag), tags)


def _record(made: MadeImage) -> ImageRecord:
    return ImageRecord(
        id=made.id,
        project_id=made.project_id,
        region="local",
        name=made.name,
        status=ImageStatus(made.status),
        store="main",
        job_id=made.id,
        created_at=made.created_at,
        updated_at=made.created_at,
        disk_format=made.disk_format,
        virtual_size=made.size_bytes,
        data_size=made.size_bytes // 2,
        stored_size=made.size_bytes // 4,
        new_size=made.size_bytes // 8,
        digest=f"b3t:{made.id.replace('-', '') * 2}",
        min_disk_gb=made.size_bytes // GIB,
        os_version=made.name,
        architecture="x86",
        boot_mode=made.properties["hw_firmware_type"],
        tags=made.tags,
        properties=made.properties,
        guest=json.loads(_guest(made).to_json()),
        manifest_id=made.id,
        active_at=made.created_at,
    )


def _guest(made: MadeImage) -> GuestReport:
    """As long as what an inspection of a small server finds."""
    sizes = (1 << 20, 512 << 20, made.size_bytes)
    names = ("BIOS boot", "EFI system", "root")
    return GuestReport(
        is_inspected=True,
        is_verified=True,
        os_type="Linux",
        distribution=made.properties["os_distro"],
        name=made.name,
        version=made.properties["os_version"],
        os_version=made.name,
        bits=64,
        architecture="x86",
        boot_modes=(BootMode.BIOS, BootMode.UEFI),
        default_boot_mode=BootMode.UEFI,
        has_cloud_init=True,
        virtio_disk=Readiness.READY,
        virtio_network=Readiness.READY,
        partitions=tuple(
            PartitionSummary(number, name, size, "Linux filesystem", "ext4", name, "/")
            for number, (name, size) in enumerate(zip(names, sizes, strict=True), 1)
        ),
        evidence=tuple(f"/etc/os-release, line {line}: {made.name} is named here" for line in range(12)),
    )


GLANCE_IMAGE = (
    "INSERT INTO images (id, name, disk_format, container_format, size, virtual_size, status, visibility, "
    "checksum, os_hash_algo, os_hash_value, min_disk, min_ram, owner, protected, os_hidden, created_at, "
    "updated_at, deleted) "
    "VALUES (?, ?, ?, 'bare', ?, ?, ?, 'private', ?, 'sha512', ?, ?, 0, ?, 0, 0, ?, ?, 0)"
)
GLANCE_PROPERTY = (
    "INSERT INTO image_properties (image_id, name, value, created_at, updated_at, deleted) "
    "VALUES (?, ?, ?, ?, ?, 0)"
)
GLANCE_TAG = (
    "INSERT INTO image_tags (image_id, value, created_at, updated_at, deleted) VALUES (?, ?, ?, ?, 0)"
)
GLANCE_LOCATION = (
    "INSERT INTO image_locations (image_id, value, meta_data, status, created_at, updated_at, deleted) "
    "VALUES (?, ?, '{\"store\": \"fs\"}', 'active', ?, ?, 0)"
)


def write_glance(path: Path, images: Sequence[MadeImage]) -> None:
    """Into the database of a Glance that does not run, after its `db_sync`.

    With a write-ahead log and statistics for its planner, as an operator would who wants it fast.
    """
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA journal_mode=WAL")
        for made in images:
            _insert_glance(database, made)
        database.execute("ANALYZE")


def _insert_glance(database: sqlite3.Connection, made: MadeImage) -> None:
    when = made.created_at.strftime("%Y-%m-%d %H:%M:%S.%f")
    size, short = made.size_bytes, made.id.replace("-", "")
    head = (made.id, made.name, made.disk_format, size, size, made.status, short, short * 4)
    database.execute(GLANCE_IMAGE, (*head, size // GIB, made.project_id, when, when))
    properties = [(made.id, name, value, when, when) for name, value in made.properties.items()]
    database.executemany(GLANCE_PROPERTY, properties)
    tags = [(made.id, f"{key}={value}", when, when) for key, value in made.tags.items()]
    database.executemany(GLANCE_TAG, tags)
    database.execute(GLANCE_LOCATION, (made.id, f"file:///images/{made.id}", when, when))
