"""Checks of stores: the request becomes a job, of the project in which the operator asks."""

from __future__ import annotations

from imsd.core.dispatcher import Dispatcher
from imsd.core.requests import RequestKey
from imsd.core.runtime import Runtime
from imsd.core.store_upkeep.store_jobs import CHECK, StoreJobs


class StoreChecks:
    def __init__(self, runtime: Runtime, dispatcher: Dispatcher) -> None:
        self._stores = runtime.stores
        self._jobs = StoreJobs(runtime, dispatcher, CHECK)

    async def start(self, key: RequestKey, store: str) -> str:
        """Start a CHECK_STORE job and return its id; the first one's when ``key`` was used before.

        Of the default store if ``store`` is empty. Raises NotFound (STORE_NOT_FOUND), Unavailable
        (DRIVER_NOT_READY), FailedPrecondition (the store is being checked).
        """
        return await self._jobs.start(key, self._stores.choose(store))
