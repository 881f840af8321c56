"""What an owner or an operator decides of an image: whether it may be used, who sees it, what replaces it."""

from __future__ import annotations

from imsd.contract import FailedPrecondition
from imsd.metadata import images as image_rows
from imsd.metadata.records import ImageKind, ImageRecord, ImageStatus, Visibility

from . import attribute_checks, checks, quotas
from .image_access import seen_image
from .image_changes import ImageRef, change, image_at, require_status
from .keys.encryption import COPY_PLAIN, require_unencrypted
from .kind_rules import WORDS
from .quota_rules import IMAGES
from .runtime import Runtime

USED = (ImageStatus.ACTIVE, ImageStatus.DEACTIVATED)


class ImageStates:
    """Each call raises what `image_at` and `change` raise, and FailedPrecondition."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def deactivate(self, ref: ImageRef) -> ImageRecord:
        """Nobody reads, copies, exports or shares its bytes until it is reactivated."""
        return await self._move(ref, ImageStatus.DEACTIVATED)

    async def reactivate(self, ref: ImageRef) -> ImageRecord:
        return await self._move(ref, ImageStatus.ACTIVE)

    async def _move(self, ref: ImageRef, status: ImageStatus) -> ImageRecord:
        async with self._runtime.database.transaction() as c:
            current = await image_at(c, ref)
            require_used(current)
            if current.status is status:
                return current
            return await change(c, self._runtime, current, {"status": status})

    async def deprecate(self, ref: ImageRef, replacement_image_id: str) -> ImageRecord:
        """Mark an image as superseded, by an image that its project sees if one is named.

        The time of the first mark stays. Raises NotFound also for the replacement.
        """
        if replacement_image_id == ref.image_id:
            checks.refuse("replacement_image_id", "an image does not replace itself")
        async with self._runtime.database.transaction() as c:
            current = await image_at(c, ref)
            require_used(current)
            if replacement_image_id:
                await seen_image(c, ref.project_id, replacement_image_id, field="replacement_image_id")
            values = {
                "deprecated_at": current.deprecated_at or self._runtime.clock(),
                "replacement_image_id": replacement_image_id,
            }
            named = await image_rows.replacement_of(c, current.id)
            if current.deprecated_at and named == replacement_image_id:
                return current
            return await change(c, self._runtime, current, values)

    async def undeprecate(self, ref: ImageRef, replacement_image_id: str = "") -> ImageRecord:
        """Take the mark away; to name a replacement then is a mistake."""
        if replacement_image_id:
            checks.refuse("replacement_image_id", "an image that is not deprecated has no replacement")
        async with self._runtime.database.transaction() as c:
            current = await image_at(c, ref)
            require_used(current)
            if current.deprecated_at is None:
                return current
            return await change(
                c, self._runtime, current, {"deprecated_at": None, "replacement_image_id": ""}
            )

    async def set_visibility(self, ref: ImageRef, visibility: str) -> ImageRecord:
        """Make an image public, or private again: for operators. ``visibility``: a `Visibility`.

        A private image counts against its project's quota. Raises LimitExceeded.
        """
        if visibility not in (Visibility.PUBLIC, Visibility.PRIVATE):
            checks.refuse("visibility", "visibility is neither PUBLIC nor PRIVATE", "members make it shared")
        async with self._runtime.database.transaction() as c:
            current = await image_at(c, ref)
            require_visible(current, visibility)
            if current.visibility == visibility:
                return current
            if visibility == Visibility.PRIVATE:
                await quotas.reserve(c, self._runtime, current.project_id, IMAGES)
            return await change(c, self._runtime, current, {"visibility": visibility})

    async def publish(self, ref: ImageRef, product_code: str) -> ImageRecord:
        """Put a private image into the marketplace: for operators (contract §13, marketplace)."""
        attribute_checks.product_code(product_code)
        async with self._runtime.database.transaction() as c:
            current = await image_at(c, ref)
            require_publishable(current)
            values = {"is_published": True, "product_code": product_code}
            if current.is_published and current.product_code == product_code:
                return current
            return await change(c, self._runtime, current, values)

    async def unpublish(self, ref: ImageRef, product_code: str = "") -> ImageRecord:
        """Take it out of the marketplace; to give a product code then is a mistake."""
        if product_code:
            checks.refuse("product_code", "an image that is not in the marketplace has no product code")
        async with self._runtime.database.transaction() as c:
            current = await image_at(c, ref)
            require_used(current)
            if not current.is_published:
                return current
            return await change(c, self._runtime, current, {"is_published": False, "product_code": ""})


def require_used(image: ImageRecord) -> None:
    """Raises FailedPrecondition unless the image is made: it may be deactivated."""
    require_status(image, USED)


def require_visible(image: ImageRecord, visibility: str) -> None:
    """Raises FailedPrecondition unless the image may become public, or private again, or is so already.

    One that nobody may use now need not be offered again to be withdrawn.
    """
    require_status(image, USED if visibility == Visibility.PRIVATE else [ImageStatus.ACTIVE])
    if image.visibility == visibility:
        return
    _require_unshared(image)
    if visibility == Visibility.PUBLIC:
        require_unencrypted(image, "made public", COPY_PLAIN)
        _require_system_disk(image, "made public")
        _require_unpublished(image)


def require_publishable(image: ImageRecord) -> None:
    """Raises FailedPrecondition."""
    require_status(image, [ImageStatus.ACTIVE])
    if image.visibility is Visibility.PUBLIC:
        raise _refused(image, "public", "IMAGE_PUBLIC", "make it private first")
    require_unencrypted(image, "published", COPY_PLAIN)
    _require_unshared(image)
    _require_system_disk(image, "published")


def _require_system_disk(image: ImageRecord, what: str) -> None:
    if image.kind is not ImageKind.SYSTEM_DISK:
        raise FailedPrecondition(
            f"image {image.name!r} is {WORDS[image.kind]}: only a system disk is {what}",
            reason="IMAGE_KIND_UNSUITED",
            hint="make an image of a system disk",
        )


def _require_unpublished(image: ImageRecord) -> None:
    if image.is_published:
        raise _refused(image, "in the marketplace", "IMAGE_PUBLISHED", "take it out of the marketplace first")


def _require_unshared(image: ImageRecord) -> None:
    # It is SHARED as long as it has a member, in whatever status.
    if image.visibility is Visibility.SHARED:
        raise _refused(image, "shared with other projects", "IMAGE_SHARED", "remove its members first")


def _refused(image: ImageRecord, state: str, reason: str, hint: str) -> FailedPrecondition:
    return FailedPrecondition(f"image {image.name!r} is {state}", reason=reason, hint=hint)
