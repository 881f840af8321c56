"""Transit engines for tests: a new one each, and a token or a role with the policy of the driver's README."""

from __future__ import annotations

import re
from pathlib import Path

from imsd_kms_transit.options import TransitOptions

from tests.openbao import OpenBao

README = Path(__file__).parents[1] / "plugins" / "imsd_kms_transit" / "README.md"


def write_policy(server: OpenBao, mount: str) -> str:
    """The name of the policy of the README, for the engine at ``mount``."""
    text = re.search(r"```hcl\n(.*?)```", README.read_text(), re.DOTALL)
    assert text is not None
    server.write_policy(mount, text[1].replace('"transit/', f'"{mount}/'))
    return mount


def secret_file(path: Path, text: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(text + "\n")
    return path


def token_options(server: OpenBao, folder: Path, ttl: str = "1h", **more: object) -> TransitOptions:
    """Of a new engine, by a token."""
    mount = server.mount_transit()
    token = server.make_token([write_policy(server, mount)], ttl)
    given: dict[str, object] = {"url": server.url, "mount": mount, "retry_seconds": 5.0}
    given["token_file"] = secret_file(folder / "token", token)
    return TransitOptions(**{**given, **more})  # type: ignore[arg-type]


def approle_options(server: OpenBao, folder: Path, ttl: str = "1h") -> TransitOptions:
    """Of a new engine, by a role of its own."""
    mount = server.mount_transit()
    approle = f"approle-{mount}"
    assert server.ask("POST", f"sys/auth/{approle}", {"type": "approle"}).status == 204
    role = {
        "token_policies": [write_policy(server, mount)],
        "token_ttl": ttl,
    }
    assert server.ask("POST", f"auth/{approle}/role/imsd", role).status == 204
    role_id = server.ask("GET", f"auth/{approle}/role/imsd/role-id").data["role_id"]
    secret_id = server.ask("POST", f"auth/{approle}/role/imsd/secret-id").data["secret_id"]
    return TransitOptions(
        url=server.url,
        mount=mount,
        role_id=role_id,
        secret_id_file=secret_file(folder / "secret-id", secret_id),
        approle_mount=approle,
        retry_seconds=5.0,
    )
