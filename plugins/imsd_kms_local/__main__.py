"""``python -m imsd_kms_local``: change the passphrase of a keyring, or look whether a copy of one is good."""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Sequence
from pathlib import Path

from imsd.contract import ImsError, InvalidRequest, read_secret

from .keyring_file import opened_keyring, read_keyring
from .options import check_passphrase

FILE_HELP = "the file that holds it, in one line; asked for on the terminal if not given"


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 1 when it failed and said why on standard error."""
    asked = _parser().parse_args(arguments)
    try:
        if asked.command == "passphrase":
            print(change_passphrase(asked.keyring, asked.passphrase_file, asked.new_passphrase_file))
        else:
            print(check(asked.keyring, asked.passphrase_file))
    except ImsError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 1
    return 0


def change_passphrase(keyring: Path, old: Path | None, new: Path | None) -> str:
    """Seal ``keyring`` with another passphrase. No daemon may have it. Raises ImsError."""
    _must_exist(keyring)
    passphrase = _passphrase(old, "Passphrase: ")
    with opened_keyring(keyring, passphrase) as (file, keys):
        file.reseal(_new_passphrase(new), keys)
        return f"{keyring}: sealed with the new passphrase; copies made before still open with the old one"


def check(keyring: Path, file: Path | None) -> str:
    """Say which keys ``keyring`` has, which is only read. Raises ImsError."""
    found = read_keyring(keyring, _passphrase(file, "Passphrase: "))
    if found is None:
        raise _missing(keyring)
    keys = [found[0][key_id] for key_id in sorted(found[0])]
    lines = [f"{keyring}: {len(keys)} keys"]
    for key in keys:
        deletion = f", will be deleted {key.delete_at:%Y-%m-%d %H:%M:%S} UTC" if key.delete_at else ""
        lines.append(f"  {key.id}  {key.state}, {len(key.versions)} versions{deletion}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m imsd_kms_local", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("passphrase", "seal a keyring with another passphrase; no daemon may have it open"),
        ("check", "say which keys a keyring has; it is only read, so it may be in use or a backup"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("keyring", type=Path)
        command.add_argument("--passphrase-file", type=Path, metavar="FILE", help=FILE_HELP)
        if name == "passphrase":
            command.add_argument("--new-passphrase-file", type=Path, metavar="FILE", help=FILE_HELP)
    return parser


def _passphrase(file: Path | None, prompt: str) -> bytes:
    return getpass.getpass(prompt).encode() if file is None else read_secret("passphrase", file, "")


def _new_passphrase(file: Path | None) -> bytes:
    passphrase = check_passphrase(_passphrase(file, "New passphrase: "))
    if file is None and _passphrase(None, "New passphrase, again: ") != passphrase:
        raise InvalidRequest("the two new passphrases are not the same: nothing was changed")
    return passphrase


def _must_exist(keyring: Path) -> None:
    if not keyring.exists():
        raise _missing(keyring)


def _missing(keyring: Path) -> InvalidRequest:
    return InvalidRequest(f"there is no keyring {keyring}")


if __name__ == "__main__":
    sys.exit(main())
