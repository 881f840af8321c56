"""Who calls by a token of an OpenID Connect provider.

What a token says of itself is believed only where it cannot matter: its header chooses a key among those of
the provider and an algorithm among those of the configuration, which never hold "none" or one whose key is a
shared secret. Keys or addresses that a header brings along are not looked at. The claims are read after the
signature was checked.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from joserfc import jws, jwt
from joserfc.errors import JoseError, SecurityWarning

from imsd.contract import Unauthenticated

from .identity_checks import NAME_OF_PRINCIPAL
from .oidc_keys import ProviderKeys

# Types of tokens that say who somebody is (RFC 9068, RFC 8725 3.11); a logout token, say, is none.
_TYPES: Final = frozenset({"", "jwt", "at+jwt", "application/at+jwt", "application/jwt"})

# Groups of one token that are looked at.
MAX_GROUPS: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcRules:
    """What a token must be. ``leeway_seconds``: by how much clocks may differ.

    ``call_seconds``: so long after it expired the calls go on that began before. Providers make tokens for
    minutes, to be renewed by the one who has them; a call cannot be given another one.
    """

    issuer: str
    audience: frozenset[str]
    user_claim: str = "sub"
    groups_claim: str = "groups"
    algorithms: frozenset[str] = frozenset({"RS256", "ES256", "EdDSA"})
    leeway_seconds: float = 30.0
    call_seconds: float = 3600.0


@dataclass(frozen=True, slots=True)
class OidcUser:
    id: str
    groups: frozenset[str]


class OidcTokens:
    def __init__(self, rules: OidcRules, keys: ProviderKeys, clock: Callable[[], datetime]) -> None:
        self._rules = rules
        self._keys = keys
        self._clock = clock

    async def verify(self, token: str, *, is_running: bool = False) -> OidcUser:
        """``is_running``: of a call that began when the token was good.

        Raises Unauthenticated; Unavailable when the keys of the provider cannot be had.
        """
        header = _header(token)
        algorithm, key_id = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._rules.algorithms:
            raise _refused("is not signed in a way that is accepted here")
        if not isinstance(key_id, str | None):
            raise _refused("names its key in a way that nobody understands")
        if str(header.get("typ", "")).lower() not in _TYPES:
            raise _refused("is of a kind that says nothing of a caller")
        key = await self._keys.find(key_id, algorithm)
        if key is None:
            raise _refused("is signed with a key that the provider does not have")
        return self._user(_claims(token, key, algorithm), self._rules.call_seconds if is_running else 0.0)

    def _user(self, claims: Mapping[str, Any], late_seconds: float) -> OidcUser:
        rules = self._rules
        if claims.get("iss") != rules.issuer:
            raise _refused("is of another provider")
        audience = claims.get("aud")
        named = audience if isinstance(audience, list) else [audience]
        if not any(isinstance(each, str) and each in rules.audience for each in named):
            raise _refused("was made for another service")
        self._require_now(claims, late_seconds)
        user_id = claims.get(rules.user_claim)
        if not isinstance(user_id, str) or not NAME_OF_PRINCIPAL.match(user_id):
            raise _refused(f"names no user in its claim {rules.user_claim!r}")
        if rules.user_claim == "email" and claims.get("email_verified") is not True:
            raise _refused("names a user by an address that was not verified")
        return OidcUser(user_id, _groups(claims.get(rules.groups_claim)))

    def _require_now(self, claims: Mapping[str, Any], late_seconds: float) -> None:
        now, leeway = self._clock().timestamp(), self._rules.leeway_seconds
        end, begin = _time(claims.get("exp")), _time(claims.get("nbf", 0))
        if now >= end + leeway + late_seconds:
            raise Unauthenticated(
                "the token expired", reason="TOKEN_EXPIRED", hint="ask the provider for another one"
            )
        if now < begin - leeway:
            raise _refused("is not good yet: do the clocks differ?")


def _header(token: str) -> dict[str, Any]:
    try:
        return jws.extract_compact(token.encode("ascii")).headers()
    except (JoseError, ValueError, RecursionError) as error:
        raise _refused("is not known, nor one of the provider") from error


def _claims(token: str, key: Any, algorithm: str) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            # "EdDSA" is an old name (RFC 9864), which most providers write.
            warnings.simplefilter("ignore", SecurityWarning)
            return jwt.decode(token, key, algorithms=[algorithm]).claims
    except (JoseError, ValueError, RecursionError) as error:
        raise _refused("has no good signature") from error


def _time(value: object) -> float:
    """Seconds: no text, not true, and none of JSON's numbers without an end."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1 << 40:
        return float(value)
    raise _refused("does not say from when to when it is good")


def _groups(claim: object) -> frozenset[str]:
    """Those that can be groups here; a single name may stand without a list."""
    names: Sequence[object] = [claim] if isinstance(claim, str) else claim if isinstance(claim, list) else []
    return frozenset(
        name for name in names[:MAX_GROUPS] if isinstance(name, str) and NAME_OF_PRINCIPAL.match(name)
    )


def _refused(why: str) -> Unauthenticated:
    return Unauthenticated(f"the token {why}", hint="ask for another one")
