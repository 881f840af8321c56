"""The rules of sharing: what may become of the share of an image with a project.

Pure: each rule looks at what is known and says the change, or raises why there is none. Sources: the seed's
Table 5-3 and contract §6.2, §9.1 and §10.8.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from imsd.contract import AlreadyExists, FailedPrecondition, LimitExceeded, NotFound
from imsd.metadata.members import MemberChange
from imsd.metadata.records import ImageKind, ImageRecord, ImageStatus, MemberStatus, Visibility

from .image_access import no_image, not_active, require_owner
from .keys.encryption import COPY_PLAIN, require_unencrypted


@dataclass(slots=True)
class Room:
    """What the quotas of the owner of images leave to members who accept; None: any number."""

    images: int | None
    members: int | None


@dataclass(slots=True, kw_only=True)
class Shares:
    """What is known of images, their shares and projects; `note` keeps it true while changes are decided.

    ``images``: those that the project ``asking`` sees, as it sees them. ``counts``: members of an image, in
    any status; ``accepted``: of them. ``known_projects``: those that there are. ``rooms``: by owner; of an
    owner without one nothing is taken.
    """

    asking: str
    images: Mapping[str, ImageRecord]
    statuses: dict[tuple[str, str], MemberStatus]
    counts: dict[str, int]
    accepted: dict[str, int]
    known_projects: Collection[str]
    rooms: Mapping[str, Room]
    max_members: int

    def image(self, image_id: str) -> ImageRecord:
        """Raises NotFound."""
        if image_id not in self.images:
            raise no_image(self.asking, image_id)
        return self.images[image_id]

    def note(self, change: MemberChange) -> None:
        key = change.image_id, change.project_id
        if change.new is None:
            del self.statuses[key]
        else:
            self.statuses[key] = change.new
        grown = (change.new is not None) - (change.old is not None)
        self.counts[change.image_id] = self.counts.get(change.image_id, 0) + grown
        more = (change.new is MemberStatus.ACCEPTED) - (change.old is MemberStatus.ACCEPTED)
        if more:
            self._note_accepted(self.image(change.image_id), more)

    def _note_accepted(self, image: ImageRecord, more: int) -> None:
        before = self.accepted.get(image.id, 0)
        self.accepted[image.id] = before + more
        room = self.rooms.get(image.project_id)
        if room and room.members is not None:
            room.members -= more
        if room and room.images is not None:
            room.images -= bool(before + more) - bool(before)


def add(shares: Shares, image_id: str, project_id: str) -> MemberChange:
    """Share an image with a project, or ask one that rejected it again.

    Raises NotFound, PermissionDenied, FailedPrecondition, AlreadyExists, LimitExceeded.
    """
    image = shares.image(image_id)
    require_shareable(shares.asking, image)
    _require_other_project(shares, image, project_id)
    old = shares.statuses.get((image_id, project_id))
    if old in (MemberStatus.PENDING, MemberStatus.ACCEPTED):
        raise AlreadyExists(
            f"image {image.name!r} is shared with project {project_id} already: {old}",
            hint="nothing is to be done",
        )
    if old is None and shares.counts.get(image_id, 0) >= shares.max_members:
        raise LimitExceeded(
            f"image {image.name!r} is shared with {shares.max_members} projects, and may not be with more",
            reason="QUOTA_EXCEEDED",
            field="member_project_ids",
            hint="remove members that need it no longer",
        )
    return MemberChange(image_id, project_id, old, MemberStatus.PENDING)


def answer(shares: Shares, image_id: str, project_id: str, status: MemberStatus) -> MemberChange:
    """A member accepts or rejects an image; it may say the same again. Raises NotFound, LimitExceeded.

    A share that is pending or rejected takes nothing of the owner's quotas (contract §6.2).
    """
    image = shares.image(image_id)
    old = _membership(shares, image_id, project_id)
    room = shares.rooms.get(image.project_id)
    if room and status is MemberStatus.ACCEPTED and old is not status:
        is_first = not shares.accepted.get(image_id, 0)
        if room.members == 0 or (is_first and room.images == 0):
            raise LimitExceeded(
                f"the owner of image {image.name!r} has no quota left for projects that accept",
                reason="QUOTA_EXCEEDED",
                field="image_members",
                hint="tell the owner: it can end other shares, or ask for a larger quota",
            )
    return MemberChange(image_id, project_id, old, status)


def remove(shares: Shares, image_id: str, project_id: str) -> MemberChange:
    """The owner ends a share, whatever its status. Raises NotFound, PermissionDenied."""
    require_owner(shares.asking, shares.image(image_id))
    return MemberChange(image_id, project_id, _membership(shares, image_id, project_id), None)


def require_shareable(project_id: str, image: ImageRecord) -> None:
    """Raises PermissionDenied (NOT_OWNER) or FailedPrecondition unless the project may share the image."""
    if image.visibility is Visibility.PUBLIC:
        raise FailedPrecondition(
            f"image {image.name!r} is public: every project sees it already",
            reason="IMAGE_PUBLIC",
            field="image_ids",
            hint="tell the others its id",
        )
    require_owner(project_id, image)
    if image.status is not ImageStatus.ACTIVE:
        raise not_active(image, "and only an active image is shared", "image_ids")
    if image.is_published or image.is_market_derived:
        why = "published in the marketplace" if image.is_published else "derived from a published image"
        raise FailedPrecondition(
            f"image {image.name!r} is {why}, and cannot be shared",
            reason="IMAGE_PUBLISHED",
            field="image_ids",
            hint="whoever needs it gets it from the marketplace",
        )
    require_unencrypted(image, "shared", COPY_PLAIN, "image_ids")
    if image.kind is ImageKind.ISO:
        # Table 5-3 says with how many tenants an image is shared, by kind, and knows no ISO images.
        raise FailedPrecondition(
            f"image {image.name!r} is an installation disc: system and data disks are shared",
            reason="IMAGE_KIND_UNSUITED",
            field="image_ids",
            hint="share an image of the disk that was installed from it",
        )


def _require_other_project(shares: Shares, image: ImageRecord, project_id: str) -> None:
    if project_id == image.project_id:
        raise FailedPrecondition(
            f"project {project_id} owns image {image.name!r}",
            reason="SHARE_WITH_OWNER",
            field="member_project_ids",
            hint="name other projects",
        )
    if project_id not in shares.known_projects:
        raise NotFound(
            f"there is no project {project_id}",
            reason="PROJECT_UNKNOWN",
            field="member_project_ids",
            hint="ask its people for its id; a project is known once it was created or made something",
        )


def _membership(shares: Shares, image_id: str, project_id: str) -> MemberStatus:
    status = shares.statuses.get((image_id, project_id))
    if status is None:
        raise NotFound(
            f"image {image_id} is not shared with project {project_id}", hint="list the members of the image"
        )
    return status
