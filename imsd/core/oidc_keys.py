"""The keys of an OpenID Connect provider: found by its discovery document, kept for a time.

They are asked for anew when half of that time is over, in the background, and when a token names one that is
not among them, though not often: anybody can send a token that names any key. When the time is over and the
provider does not answer, nobody is let in.
"""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import structlog
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, Key, OctKey, RSAKey, import_key

from imsd.contract import Unavailable

from .background import Background
from .oidc_provider import Provider

log = structlog.get_logger(__name__)

MAX_KEYS: Final = 100
MIN_RSA_BITS: Final = 2048

# After an attempt in vain the provider is left alone for so long.
PAUSE_SECONDS: Final = 3.0

# Calls that wait for the provider: anybody's that bring a token which names some key. More are refused, so
# that a slow provider does not take the places of those who do not need it.
MAX_WAITING: Final = 16

_KEY_TYPES: Final = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
_CURVES: Final = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyTimes:
    """How long keys are kept, and how often they are asked for again because one is missing; seconds."""

    keep: float = 3600.0
    refetch: float = 30.0


class ProviderKeys:
    def __init__(
        self,
        provider: Provider,
        times: KeyTimes,
        background: Background,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._provider = provider
        self._times = times
        self._background = background
        self._monotonic = monotonic
        self._keys: list[Key] = []
        self._fetched_at = float("-inf")
        self._failed_at = float("-inf")
        self._fetching = asyncio.Lock()
        self._is_renewing = False
        self._waiting = 0

    async def find(self, key_id: str | None, algorithm: str) -> Key | None:
        """The key that a token names; of a token that names none, the only one that fits its algorithm.

        Raises Unavailable.
        """
        age = self._age()
        if age >= self._times.keep:
            await self._fetch(at_least_young_as=self._times.keep)
        elif age >= self._times.keep / 2 and not self._is_renewing and not self._is_paused():
            self._is_renewing = True
            self._background.spawn(self._renew(), "keys of the OpenID Connect provider")
        key = _fitting(self._keys, key_id, algorithm)
        if key is None and self._age() >= self._times.refetch:
            await self._fetch(at_least_young_as=self._times.refetch)
            key = _fitting(self._keys, key_id, algorithm)
        return key

    async def _renew(self) -> None:
        try:
            await self._fetch(at_least_young_as=self._times.keep / 2)
        except Unavailable as error:
            log.warning("the keys of the OpenID Connect provider are not renewed", error=error.message)
        finally:
            self._is_renewing = False

    async def _fetch(self, at_least_young_as: float) -> None:
        """One asks, the others wait for what it gets, not too many of them. Raises Unavailable."""
        if self._waiting >= MAX_WAITING:
            raise Unavailable(
                "too many calls wait for the OpenID Connect provider", hint="try again in a moment"
            )
        self._waiting += 1
        try:
            await self._fetch_in_turn(at_least_young_as)
        finally:
            self._waiting -= 1

    async def _fetch_in_turn(self, at_least_young_as: float) -> None:
        async with self._fetching:
            if self._age() < at_least_young_as:
                return
            if self._is_paused():
                raise Unavailable(
                    "the OpenID Connect provider did not answer a moment ago", hint="try again in a moment"
                )
            try:
                self._keys = usable_keys(await self._provider.fetch_keys())
            except Unavailable:
                self._failed_at = self._monotonic()
                raise
            self._fetched_at = self._monotonic()

    def _is_paused(self) -> bool:
        return self._monotonic() - self._failed_at < PAUSE_SECONDS

    def _age(self) -> float:
        return self._monotonic() - self._fetched_at


def usable_keys(found: Iterable[object]) -> list[Key]:
    """Public keys that are long enough and made for signatures; others are left out."""
    keys = []
    for given in list(found)[:MAX_KEYS]:
        key = _imported(given)
        if key is not None:
            keys.append(key)
    return keys


def _imported(given: object) -> Key | None:
    if not isinstance(given, dict) or given.get("use", "sig") != "sig":
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)  # what is too short is left out below
            key = import_key(given)
        if isinstance(key, OctKey) or (isinstance(key, RSAKey) and key.public_key.key_size < MIN_RSA_BITS):
            return None
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return key


def _fitting(keys: Iterable[Key], key_id: str | None, algorithm: str) -> Key | None:
    fitting = [key for key in keys if _fits(key, key_id, algorithm)]
    if key_id is None and len(fitting) != 1:
        return None
    return fitting[0] if fitting else None


def _fits(key: Key, key_id: str | None, algorithm: str) -> bool:
    if key_id is not None and key.get("kid") != key_id:
        return False
    if key.key_type != _KEY_TYPES[algorithm[:2]] or key.get("alg") not in (None, algorithm):
        return False
    return not isinstance(key, ECKey) or key.curve_name == _CURVES[algorithm]
