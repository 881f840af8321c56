"""The decision on a question: Cedar's, by the policies that were loaded. Denied unless a policy permits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import cedarpy
import structlog

from imsd.metadata.records import ImageRecord

from .entities import Question, entities_of, request_of
from .inquiry import GROUPS, IMAGE_LIST
from .loading import LoadedPolicies, PolicyText

log = structlog.get_logger(__name__)

# Answers that are kept: of some callers in some projects. One takes about 2 KiB.
KEPT_ANSWERS: Final = 4096


@dataclass(frozen=True, slots=True)
class Decision:
    """``policies``: ids of those that decided; of a denial without any, none permits it."""

    is_allowed: bool
    policies: tuple[str, ...] = ()


class Policies:
    """Made once; asked for every call."""

    def __init__(self, loaded: LoadedPolicies) -> None:
        self._schema = loaded.schema
        self._set = cedarpy.PolicySet.from_str("\n".join(policy.text for policy in loaded.texts))
        self.texts: Sequence[PolicyText] = loaded.texts
        self.groups = loaded.groups
        self._image_actions = loaded.image_actions
        self._kept = lru_cache(KEPT_ANSWERS)(self._decide)

    def decide(self, question: Question, image: ImageRecord | None = None) -> Decision:
        """``image``: what the question is about, when that is one; such an answer is not kept.

        A decision takes about 0.1 ms, a kept one some µs. A policy that fails while it is evaluated denies.
        """
        return self._kept(question) if image is None else self._decide(question, image)

    def needs_image(self, action: str) -> bool:
        """Whether what an image is like may decide on ``action``: it must be looked up only then."""
        if action == IMAGE_LIST:
            return False
        return action in self._image_actions or not GROUPS.isdisjoint(self._image_actions)

    def _decide(self, question: Question, image: ImageRecord | None = None) -> Decision:
        result = cedarpy.is_authorized(
            request_of(question), self._set, entities_of(question, image), self._schema
        )
        diagnostics = result.diagnostics
        if diagnostics.errors:
            # What was checked against the schema does not fail; if it does, what it forbids must not pass.
            log.error("a policy failed", action=question.action, errors=diagnostics.errors)
            return Decision(False)
        names = diagnostics.id_annotations_by_reason
        return Decision(result.allowed, tuple(sorted(names.get(each, each) for each in diagnostics.reasons)))
