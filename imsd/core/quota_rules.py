"""What a project has a quota of, as data: what is counted, how much, and where the rule comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .service_limits import GIB, UNLIMITED

IMAGES: Final = "images"
UPLOADS: Final = "uploads"
STAGED_BYTES: Final = "staged_bytes"
SHARED_IMAGES: Final = "shared_images"
IMAGE_MEMBERS: Final = "image_members"
KEYS: Final = "encryption_keys"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaRule:
    """A resource of which a project has so much. ``source``: the rule it comes from, empty for imsd's own.

    ``setting``: the key of the configuration with the quota of projects that have none of their own.
    ``what``, ``way_out``: how a refusal names it, and what it advises.
    """

    resource: str
    default: int
    summary: str
    what: str
    way_out: str
    source: str = ""
    setting: str = ""

    @property
    def key(self) -> str:
        return self.setting or f"quotas.{self.resource}"


RULES: Final[Sequence[QuotaRule]] = (
    QuotaRule(
        resource=IMAGES,
        default=50,
        summary="images that are not public, those being made included, deleted ones not",
        what="images",
        way_out="delete images, or ask the operator for a larger quota",
        source="Table 5-1, Maximum number of private images that can be created in a region",
    ),
    QuotaRule(
        resource=UPLOADS,
        default=1000,
        summary="uploads that are open",
        what="open uploads",
        way_out="finish or abort some of them",
    ),
    QuotaRule(
        resource=STAGED_BYTES,
        default=256 * GIB,
        summary="bytes that uploads hold in the store",
        what="bytes of uploads",
        way_out="make images of finished uploads, or abort some",
        setting="staging_quota_bytes",
    ),
    QuotaRule(
        resource=SHARED_IMAGES,
        default=UNLIMITED,
        summary="images that another project accepted",
        what="shared images",
        way_out="take the members off some of them",
        source="contract §3.13, image_shared",
    ),
    QuotaRule(
        resource=IMAGE_MEMBERS,
        default=UNLIMITED,
        summary="projects that accepted an image, over all images",
        what="accepted shares",
        way_out="take some members off",
        source="contract §3.13, image_member",
    ),
    QuotaRule(
        resource=KEYS,
        default=100,
        summary="keys, those included that are to be deleted",
        what="keys",
        way_out="delete keys under which there is nothing, or ask the operator for a larger quota",
    ),
)

BY_RESOURCE: Final = {rule.resource: rule for rule in RULES}
