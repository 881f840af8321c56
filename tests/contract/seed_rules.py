"""The rules of chapter 5 of the hosted service's overview: every row of its tables, bullet by bullet.

Rows that only refer to another document are here too; the words are those of the document, shortened where
they explain.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SeedRule:
    """``table``: as it is numbered, or the heading of what is no table; ``row``: its first cells."""

    table: str
    row: str
    words: str


def _rules(table: str, rows: dict[str, tuple[str, ...]]) -> tuple[SeedRule, ...]:
    return tuple(SeedRule(table, row, words) for row, each in rows.items() for words in each)


SEED_RULES = (
    *_rules(
        "Table 5-1",
        {
            "Maximum number of private images that can be created in a region": (
                "50. If you need more, submit a service ticket to increase your quota.",
            ),
            "Maximum number of concurrent tasks for creating private images": (
                "40",
                "Currently, only one image can be created in each task.",
            ),
            "Creating a system disk image from an ECS or BMS": (
                "The ECS must be in the Stopped or Running state.",
                "The BMS must be in the Stopped state and must be booted from an EVS disk rather than a "
                "local disk.",
            ),
            "Creating a data disk image from an ECS": (
                "The ECS must be in the Stopped or Running state.",
                "A data disk image can be used to create only one data disk at a time.",
            ),
            "Disk capacity": (
                "The system disk capacity of an ECS or a BMS used to create a system disk image must be no "
                "greater than 1 TB. If it is greater than 1 TB for an ECS, you can only use the ECS to "
                "create a full-ECS image.",
                "The data disk capacity of an ECS used to create a data disk image must be no greater than "
                "1 TB. If it is greater than 1 TB, you can only use the ECS to create a full-ECS image.",
            ),
            "Creating a full-ECS image from an ECS or a CSBS or CBR backup": (
                "The ECS must be in the Stopped or Running state.",
                "A CSBS or CBR backup can be used to create only one full-ECS image at a time.",
                "A full-ECS image is shareable with other tenants only when it is created from a CBR backup "
                "or from an ECS that has never had a CSBS backup.",
                "A full-ECS image cannot be exported or replicated within a region.",
            ),
        },
    ),
    *_rules(
        "Table 5-2",
        {
            "Importing a system disk image from an external image file": (
                "For details about constraints on external image files, see Preparing an Image File (Linux).",
            ),
            "Importing a system disk image from an ISO file": (
                "Register the ISO file as an ISO image, use the ISO image to create a temporary ECS, install "
                "an OS and related drivers on the ECS, and use the ECS to create a system disk image.",
                "The ISO image cannot be replicated, exported, or encrypted.",
            ),
            "Importing a data disk image from an external image file": (
                "The data disk capacity can be 40–2048 GB, and it must also be at least as big as the data "
                "disk in the image file.",
            ),
            "Image format": ("VMDK, VHD, QCOW2, RAW, VHDX, QED, VDI, QCOW, ZVHD2, and ZVHD",),
            "Image size": (
                "The image size cannot exceed 128 GB.",
                "If the image size is between 128 GB and 1 TB, convert the image file into the RAW or ZVHD2 "
                "format and import the image through fast import.",
            ),
        },
    ),
    *_rules(
        "Table 5-3",
        {
            "Maximum number of tenants an image can be shared with": (
                "System disk image or data disk image: 128",
                "Full-ECS image: 10",
            ),
            "Maximum number of shared images that a tenant can receive": ("No limit",),
            "Private image status": ("Normal",),
            "Image sharing": (
                "Encrypted images cannot be shared with others.",
                "Images published in the Marketplace cannot be shared with others.",
                "Full-ECS images created from a CSBS backup cannot be shared with others.",
            ),
            "Region": ("A shared image can be used to create cloud servers only in the same region.",),
        },
    ),
    *_rules(
        "Table 5-4",
        {
            "Maximum size of an image": ("128 GB",),
            "Maximum number of concurrent replication tasks per tenant": ("5",),
            "Private image status": ("Normal",),
            "Replicating images within a region": (
                "Full-ECS images cannot be replicated within the same region.",
                "Private images created using ISO files do not support in-region replication.",
            ),
        },
    ),
    *_rules(
        "Table 5-5",
        {
            "Maximum size of an exported image": (
                "1 TB",
                "Images larger than 128 GB only support fast export.",
            ),
            "Formats of exported image files": ("VMDK, VHD, QCOW2, ZVHD, and ZVHD2",),
            "Private image status": ("Normal",),
            "Exporting an image": (
                "Encrypted images cannot be exported through fast export.",
                "An image can only be exported to a Standard bucket that is in the same region as the image.",
                "Full-ECS images cannot be exported.",
                "ISO images cannot be exported.",
                "Private images created from an Ubuntu public image cannot be exported.",
                "The image size must be less than 1 TB. Images larger than 128 GB support only fast export.",
            ),
        },
    ),
    *_rules(
        "Table 5-6",
        {
            "Encrypting an image: creating an encrypted image from an encrypted ECS or an external image "
            "file": (
                "An encrypted image cannot be shared with other tenants.",
                "The key used for encrypting an image cannot be changed.",
            ),
            "Deleting images: private image status": ("A published private image cannot be deleted.",),
            "Creating cloud servers from an image: number of cloud servers that can be concurrently created "
            "using a system disk image": ("Recommended value: ≤ 100",),
            "Tagging an image: maximum number of tags that can be added to a private image": ("10",),
        },
    ),
    *_rules(
        "Other constraints",
        {
            "Frozen ECS": (
                "If an ECS is frozen due to overdue payment, it cannot be used to create a private image.",
            ),
            "x86 ECS": (
                "A private image created from an x86 ECS cannot be used to create a Kunpeng ECS or change "
                "the OS of a Kunpeng ECS.",
            ),
            "x86 image file": (
                "When you use an external image file to create a private image and select x86 for "
                "Architecture, the private image cannot be used to create a Kunpeng ECS or change the OS of "
                "a Kunpeng ECS.",
            ),
            "32-bit OS": (
                "A private image containing a 32-bit OS cannot be used to create an ECS with larger than 4 "
                "GB of memory.",
            ),
        },
    ),
)
