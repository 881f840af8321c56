"""What is served of stores, and the work on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from imsd.core.dispatcher import Dispatcher
from imsd.core.job_run import Workflow
from imsd.core.runtime import Runtime
from imsd.core.sweeper import Sweeper
from imsd.core.workflows.check_store import CheckStore
from imsd.core.workflows.move_image import MoveImage
from imsd.metadata.records import JobKind

from .image_moves import ImageMoves
from .store_checks import StoreChecks
from .store_list import Stores


@dataclass(frozen=True, slots=True)
class StoreServices:
    list: Stores
    checks: StoreChecks
    moves: ImageMoves


def store_services(runtime: Runtime, dispatcher: Dispatcher) -> StoreServices:
    return StoreServices(Stores(runtime), StoreChecks(runtime, dispatcher), ImageMoves(runtime, dispatcher))


def store_workflows(sweeper: Sweeper) -> Mapping[JobKind, Workflow]:
    return {JobKind.MOVE_IMAGE: MoveImage(sweeper), JobKind.CHECK_STORE: CheckStore()}
