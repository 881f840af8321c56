"""What can be configured of a keyring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imsd.contract import InvalidRequest, check_one_secret, read_secret

# Of a passphrase: enough that guessing one is out of the question if it was made by a machine.
MIN_PASSPHRASE_BYTES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalKeysOptions:
    """The keys of a section ``[key_services.NAME]`` with ``driver = "local"``."""

    # The keyring; made, with mode 0600, if its folder exists.
    path: Path

    # The file that holds the passphrase of the keyring, in one line; only the daemon may read it.
    passphrase_file: Path | None = None

    # Instead: the name of a credential of the daemon's unit (LoadCredential=).
    passphrase_credential: str = ""

    def __post_init__(self) -> None:
        check_one_secret("passphrase", self.passphrase_file, self.passphrase_credential)

    def passphrase(self) -> bytes:
        """Blocks. Raises InvalidRequest (INVALID_CONFIGURATION)."""
        return check_passphrase(read_secret("passphrase", self.passphrase_file, self.passphrase_credential))


def check_passphrase(passphrase: bytes) -> bytes:
    """Raises InvalidRequest (INVALID_CONFIGURATION) for one that can be guessed."""
    if len(passphrase) < MIN_PASSPHRASE_BYTES:
        raise InvalidRequest(
            f"the passphrase is shorter than {MIN_PASSPHRASE_BYTES} characters",
            reason="INVALID_CONFIGURATION",
            field="passphrase_file",
            hint="make one with: openssl rand -base64 32",
        )
    return passphrase


def files_of(options: LocalKeysOptions) -> Sequence[Path]:
    """The files that hold keys and the passphrase."""
    lock = options.path.with_name(options.path.name + ".lock")
    return [options.path, lock, *([options.passphrase_file] if options.passphrase_file else [])]
