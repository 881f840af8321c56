"""A program that makes keys in a keyring until it is killed: the id of each in a line, once it is made.

usage: make_keys.py KEYRING PASSPHRASE_FILE
"""

from __future__ import annotations

import asyncio
import sys
from itertools import count
from pathlib import Path

from imsd_kms_local.options import LocalKeysOptions
from imsd_kms_local.service import open_local_keys


async def make_keys(options: LocalKeysOptions) -> None:
    async with open_local_keys(options) as keys:
        for number in count():
            await keys.create(f"key-{number}")
            print(f"key-{number}", flush=True)


asyncio.run(make_keys(LocalKeysOptions(path=Path(sys.argv[1]), passphrase_file=Path(sys.argv[2]))))
