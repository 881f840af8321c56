"""Which rules of the service would refuse an action on an image, whatever the policies say.

What is known beforehand: whose the image is, its state, kind and marks. The rules themselves are enforced
where the work is done; this is for who asks first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from imsd.contract import ImsError
from imsd.metadata.records import ImageKind, ImageRecord, ImageStatus, Visibility

from .image_access import require_owner, require_usable
from .image_copies import require_disk
from .share_rules import require_shareable

# A rule says why not; empty: it has nothing against it.
Rule = Callable[[str, ImageRecord], str]


def refusals(action: str, project_id: str, image: ImageRecord) -> Iterator[str]:
    """Sentences, one for each rule that a call in ``project_id`` would break."""
    for rule in RULES.get(action, ()):
        if said := rule(project_id, image):
            yield said


def _owner(project_id: str, image: ImageRecord) -> str:
    return _message(require_owner, project_id, image)


def _shareable(project_id: str, image: ImageRecord) -> str:
    return _message(require_shareable, project_id, image)


def _active(_project_id: str, image: ImageRecord) -> str:
    return "" if image.status is ImageStatus.ACTIVE else f"the image is {image.status}, not active"


def _deletable(_project_id: str, image: ImageRecord) -> str:
    """IMG.0090, IMG.0091, IMG.0094; Table 5-6: "a published private image cannot be deleted"."""
    if image.status is ImageStatus.SAVING:
        return "the image is being created: cancel its job instead"
    if image.is_protected:
        return "the image is protected"
    if image.is_published:
        return "the image is published"
    return "a public image is not deleted" if image.visibility is Visibility.PUBLIC else ""


def _usable(project_id: str, image: ImageRecord) -> str:
    return _message(require_usable, project_id, image)


def _copyable(project_id: str, image: ImageRecord) -> str:
    return _message(lambda _, image: require_disk(image), project_id, image)


def _exportable(_project_id: str, image: ImageRecord) -> str:
    """Table 5-5; contract §10.3."""
    if image.kind is ImageKind.ISO:
        return "an ISO image is not exported to a bucket"
    if image.visibility is Visibility.PUBLIC:
        return "a public image is not exported to a bucket"
    if image.is_published or image.is_market_derived:
        return "an image of the marketplace, or derived from one, is not exported to a bucket"
    return ""


def _fillable(_project_id: str, image: ImageRecord) -> str:
    is_waiting = image.status is ImageStatus.QUEUED and image.is_prepared
    return "" if is_waiting else "the image does not wait for its bytes"


def _message(require: Callable[[str, ImageRecord], None], project_id: str, image: ImageRecord) -> str:
    try:
        require(project_id, image)
    except ImsError as error:
        return error.message
    return ""


# Contract §9.1: only the owner changes an image.
RULES: Final[Mapping[str, tuple[Rule, ...]]] = {
    "ims:images:update": (_owner,),
    "ims:images:delete": (_owner, _deletable),
    "ims:images:upload": (_owner, _fillable),
    "ims:images:share": (_shareable,),
    "ims:images:copy": (_usable, _copyable),
    "ims:images:export": (_active, _exportable),
    "ims:images:publish": (_owner, _active),
    "ims:images:publicize": (_owner, _active),
}
