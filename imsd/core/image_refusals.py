"""Which rules of the service would refuse an action on an image, whatever the policies say.

The rules are those that are enforced where the work is done, asked beforehand: of each call that an action
is for, what can be known without the rest of its request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from imsd.contract import ImsError
from imsd.metadata.records import ImageRecord, Visibility

from .actions import OPERATIONS, PACKAGE
from .export_rules import FAST_FORMAT, FORMATS, ExportPolicy, require_exportable
from .image_access import require_active, require_owner, require_usable
from .image_copies import require_copyable
from .image_deletion import require_deletable
from .image_registration import require_waiting
from .image_states import require_publishable, require_used, require_visible
from .image_update import require_updatable
from .share_rules import require_shareable


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Of which image, by which project; ``has_job``: see `look_for_job`."""

    project_id: str
    image: ImageRecord
    has_job: bool
    exports: ExportPolicy


# Raises `ImsError`.
Rule = Callable[[Asked], None]


def refusals(action: str, asked: Asked) -> Iterator[str]:
    """Sentences, one for each rule that a call would break.

    One that only some calls of the action would break begins with their names.
    """
    calls = [name for name, operation in _CALLS.items() if action in operation.actions]
    said: dict[str, list[str]] = {}
    for call in calls:
        for rule in RULES.get(call, ()):
            if message := _message(rule, asked):
                said.setdefault(message, []).append(call)
    for message, broken in said.items():
        yield message if broken == calls else f"{', '.join(broken)}: {message}"


def _message(rule: Rule, asked: Asked) -> str:
    try:
        rule(asked)
    except ImsError as error:
        return error.message
    return ""


def _owner(asked: Asked) -> None:
    require_owner(asked.project_id, asked.image)


def _usable(asked: Asked) -> None:
    require_usable(asked.project_id, asked.image)


def _copyable(asked: Asked) -> None:
    require_copyable(asked.image, asked.exports.limits.max_copy_bytes)


def _exportable(asked: Asked) -> None:
    """What forbids every export: by a fast one the largest images go, unless they are encrypted."""
    disk_format = FORMATS[0] if asked.image.key_id else FAST_FORMAT
    require_exportable(asked.project_id, asked.image, disk_format, asked.exports)


def _visible(asked: Asked) -> None:
    """It becomes what it is not."""
    is_public = asked.image.visibility is Visibility.PUBLIC
    require_visible(asked.image, Visibility.PRIVATE if is_public else Visibility.PUBLIC)


def _publishable(asked: Asked) -> None:
    """It becomes what it is not."""
    if asked.image.is_published:
        require_used(asked.image)
    else:
        require_publishable(asked.image)


def _active(asked: Asked) -> None:
    require_active(asked.image)


_OWN_AND_USED: Final = (_owner, lambda asked: require_used(asked.image))
_OWN_AND_UPDATABLE: Final = (_owner, lambda asked: require_updatable(asked.image))

# Of the calls on images. Those that are left out have no rule that is known beforehand, as accepting a share.
RULES: Final[Mapping[str, tuple[Rule, ...]]] = {
    "UpdateImage": _OWN_AND_UPDATABLE,
    "DeactivateImage": _OWN_AND_USED,
    "ReactivateImage": _OWN_AND_USED,
    "DeprecateImage": _OWN_AND_USED,
    "VerifyImage": (_owner, _active),
    "MoveImage": (_owner, _active),
    "SetImageTags": _OWN_AND_UPDATABLE,
    "DeleteImageTags": _OWN_AND_UPDATABLE,
    "DeleteImage": (_owner, lambda asked: require_deletable(asked.image, has_job=asked.has_job)),
    "RegisterImage": (_owner, lambda asked: require_waiting(asked.image, has_job=asked.has_job)),
    "AddMembers": (lambda asked: require_shareable(asked.project_id, asked.image),),
    "RemoveMembers": (_owner,),
    "CopyImage": (_usable, _copyable),
    "ExportImage": (_exportable,),
    "DownloadImage": (_usable,),
    "AttachImage": (_usable,),
    "InspectImage": (_usable,),
    "PublishImage": (_owner, _publishable),
    "SetImageVisibility": (_owner, _visible),
}

# All but those about an attachment, which may end whatever its image is.
_CALLS: Final = {
    method.removeprefix(f"{PACKAGE}.").partition("/")[2]: each
    for method, each in OPERATIONS.items()
    if each.resource != "attachment"
}
