"""What says who calls, and who may answer: options, their variables, and the file of a token."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

TOKEN_HELP = "A token that says who you are; others see it in the list of processes: better use --token-file."
TOKEN_FILE_HELP = "A file whose first line is such a token; else IMSD_TOKEN, else IMSD_TOKEN_FILE."
CA_FILE_HELP = "The authorities (PEM) of a tls:// daemon; else IMSD_CA_FILE, else those of the system."
CERT_HELP = "A client certificate (PEM) for a tls:// daemon; else IMSD_CERT."
CERT_KEY_HELP = "The key of that certificate (PEM); else IMSD_CERT_KEY."

# More than any token has.
MAX_TOKEN_BYTES = 32 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialOptions:
    """Empty: not given. Only one of ``token`` and ``token_file`` is."""

    token: str = field(default="", repr=False)
    token_file: str = ""
    ca_file: str = ""
    cert: str = ""
    cert_key: str = ""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> CredentialOptions:
        """What the variables say: IMSD_TOKEN and so on."""
        given = {each.name: environment.get(f"IMSD_{each.name.upper()}", "") for each in fields(cls)}
        return CredentialOptions(**given).with_one_token()

    def with_one_token(self) -> CredentialOptions:
        if not self.token:
            return self
        return CredentialOptions(
            token=self.token, ca_file=self.ca_file, cert=self.cert, cert_key=self.cert_key
        )

    def on_top_of(self, outer: CredentialOptions) -> CredentialOptions:
        """``outer``, but for what is given here."""
        has_token = bool(self.token or self.token_file)
        return CredentialOptions(
            token=self.token if has_token else outer.token,
            token_file=self.token_file if has_token else outer.token_file,
            ca_file=self.ca_file or outer.ca_file,
            cert=self.cert or outer.cert,
            cert_key=self.cert_key or outer.cert_key,
        ).with_one_token()

    def read_token(self, note: Callable[[str], None]) -> str:
        """The token, or nothing. Raises `LocalFileFailed`."""
        if self.token or not self.token_file:
            return self.token
        from ims_client import LocalFileFailed, cannot_read

        path = Path(self.token_file)
        try:
            with path.open("rb") as file:
                if stat.S_ISREG(mode := os.fstat(file.fileno()).st_mode) and mode & 0o077:
                    note(f"{path} can be read by others: chmod 600 {path}")
                content = file.readline(MAX_TOKEN_BYTES)
        except OSError as error:
            raise cannot_read(path, error) from None
        token = content.decode("ascii", "replace").strip()
        if not token:
            raise LocalFileFailed(f"{path} holds no token", "its first line must be one")
        return token
