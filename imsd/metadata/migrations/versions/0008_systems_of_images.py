"""Images of older programs say their type of system, its width and its platform, as new ones do.

What the names mean is written down here as it was when this revision was made: a migration does not change.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

BATCH = 1000

# How names of systems begin → the platform. Those that are the beginning of another come last.
PLATFORMS = (
    ("centos", "CentOS"),
    ("coreos", "CoreOS"),
    ("debian", "Debian"),
    ("euleros", "EulerOS"),
    ("fedora", "Fedora"),
    ("freebsd", "FreeBSD"),
    ("kylin", "Kylin"),
    ("kylinsec", "KylinSec"),
    ("neokylin", "NeoKylin"),
    ("openeuler", "openEuler"),
    ("opensuse", "openSUSE"),
    ("oracle linux server release", "Oracle Linux"),
    ("red hat linux enterprise", "Red Hat"),
    ("red hat enterprise linux", "Red Hat"),
    ("redhat linux enterprise", "Red Hat"),
    ("redhat", "Red Hat"),
    ("suse linux enterprise server", "SUSE Linux Enterprise"),
    ("ubuntu", "Ubuntu"),
    ("uos", "UnionTech"),
    ("windows", "Windows"),
)
OS_TYPES = {"Windows": "windows", "FreeBSD": "other"}
OTHER = re.compile(r"other[ _](linux|windows) ?\((32|64)[ _]bit\)", re.IGNORECASE)
BITS = re.compile(r"\b(32|64)[ _-]?bit\)?$", re.IGNORECASE)
OTHER_LINUX = "Other_Linux (64_bit)"

_image = sa.table(
    "image",
    *(sa.column(name) for name in ("id", "kind", "status", "os_version", "os_type", "os_bits", "platform")),
    sa.column("guest", sa.JSON()),
)


def upgrade() -> None:
    connection = op.get_bind()
    change = (
        sa.update(_image)
        .where(_image.c.id == sa.bindparam("of_image"))
        .values(
            {name: sa.bindparam(f"new_{name}") for name in ("os_version", "os_type", "os_bits", "platform")}
        )
    )
    for rows in _batches(connection):
        values = [{"of_image": row.id} | _system(row) for row in rows]
        connection.execute(change, values)


def downgrade() -> None:
    """What was filled in stays: an older program does not look at it."""


def _batches(connection: sa.Connection) -> Iterator[list[Any]]:
    """The images that say nothing of their system, and are not being made: that says it at its end."""
    after = ""
    query = sa.select(_image.c.id, _image.c.kind, _image.c.os_version, _image.c.guest).order_by(_image.c.id)
    silent = query.where(_image.c.os_type == "", _image.c.status.not_in(["queued", "saving"])).limit(BATCH)
    while rows := list(connection.execute(silent.where(_image.c.id > after))):
        yield rows
        after = rows[-1].id


def _system(row: Any) -> dict[str, Any]:
    guest = row.guest if isinstance(row.guest, dict) else json.loads(row.guest or "{}")
    os_version = row.os_version or ("" if row.kind == "data_disk" else OTHER_LINUX)
    os_type, bits, platform = _named(os_version)
    if not os_type:
        found = str(guest.get("os_type", "")).lower() if guest.get("is_verified") else ""
        os_type, bits, platform = found or "other", int(guest.get("bits") or 0), "Other"
    return {
        "new_os_version": os_version,
        "new_os_type": os_type,
        "new_os_bits": bits,
        "new_platform": platform,
    }


def _named(os_version: str) -> tuple[str, int, str]:
    """What a name says; empty and 0: nothing."""
    text = " ".join(os_version.lower().split())
    if found := OTHER.fullmatch(text):
        return found[1], int(found[2]), "Other"
    for start, platform in PLATFORMS:
        if text.startswith(f"{start} "):
            found = BITS.search(text)
            return OS_TYPES.get(platform, "linux"), int(found[1]) if found else 64, platform
    return "", 0, ""
