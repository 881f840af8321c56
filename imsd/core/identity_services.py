"""All that the service keeps of who may call, put together once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .api_tokens import ApiTokens
from .authentication import Authentication
from .grants import Grants
from .identity import Identity
from .principals import Principals
from .projects import Projects
from .runtime import Runtime

if TYPE_CHECKING:
    from .oidc import OidcTokens


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityServices:
    principals: Principals
    authentication: Authentication
    projects: Projects
    identity: Identity
    grants: Grants
    tokens: ApiTokens

    def close(self) -> None:
        """What waits to be written is written by the work in the background that the daemon settles."""
        self.tokens.uses.close()
        self.tokens.calls.close()


def identity_services(runtime: Runtime, oidc: OidcTokens | None = None) -> IdentityServices:
    """``oidc``: tokens of a provider that are accepted beside those of the service."""
    principals = Principals(runtime.database)
    tokens = ApiTokens(runtime, principals)
    return IdentityServices(
        principals=principals,
        authentication=Authentication(principals, tokens, oidc),
        projects=Projects(runtime, principals),
        identity=Identity(runtime, principals, tokens.calls),
        grants=Grants(runtime, principals),
        tokens=tokens,
    )
