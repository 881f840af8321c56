"""What a request may say: lengths, counts, characters, with the row of the contract each comes from.

Sections are those of the hosted service's contract; the operator's own limits (sizes, quotas, how many
jobs run) are configuration, see `imsd.config`.
"""

from __future__ import annotations

import re
from typing import Final

# §8.1 Name: 1-128 characters, no leading or trailing space; letters, digits, Chinese, space and - . _
MAX_NAME: Final = 128
NAME = re.compile(r"(?! )[\w .\-]{1,128}(?<! )\Z")

# §8.2 Description: at most 1,024 characters; no carriage return, < or >.
MAX_DESCRIPTION: Final = 1024
NOT_IN_DESCRIPTION = re.compile(r"[\r<>\x00]")

# §8.3 Tags: key up to 36, value up to 43 characters, letters, digits, _ and - (a value may contain .);
# at most 10 an image (IMG.0116).
MAX_TAGS: Final = 10
MAX_TAG_KEY: Final = 36
MAX_TAG_VALUE: Final = 43
TAG_KEY = re.compile(rf"[\w\-]{{1,{MAX_TAG_KEY}}}\Z")
TAG_VALUE = re.compile(rf"[\w.\-]{{0,{MAX_TAG_VALUE}}}\Z")

# §3.9: free attributes, whose keys have no upper-case letters; how many and how long is ours.
MAX_PROPERTIES: Final = 64
PROPERTY_KEY = re.compile(r"[\w.\-]{1,64}\Z")
MAX_PROPERTY_VALUE: Final = 255

# §5.1 min_disk in GB, min_ram and max_ram in MB; 0 means no limit.
MAX_DISK_GB: Final = 1 << 20
MAX_RAM_MB: Final = 4 << 20
# Seed, "Other Constraints": no server with more memory is made of an image with a 32-bit system.
MAX_RAM_OF_32_BIT_MB: Final = 4096
# Seed, Tables 5-3 and 5-6: of what waits for servers, so that nothing asks for them yet.
MAX_FULL_SERVER_MEMBERS: Final = 10
MAX_SERVERS_AT_ONCE: Final = 100
MAX_OS_VERSION: Final = 255
MAX_PLATFORM: Final = 32
MAX_STORE: Final = 64  # a configured name
MAX_SERVER_TYPE: Final = 64

# §5.1 os_shutdown_timeout: 60 to 300 seconds.
SHUTDOWN_TIMEOUT_SECONDS: Final = (60, 300)

# §5.2: the values of these are free texts there; the bounds are ours.
DEVICE = re.compile(r"[A-Za-z0-9_]{0,64}\Z")
PRODUCT_CODE = re.compile(r"[A-Za-z0-9_\-]{0,64}\Z")
MAX_AGENTS: Final = 16
AGENT = re.compile(r"[a-z0-9_\-]{1,32}\Z")
MAX_OS_FEATURES: Final = 4096

# Families are ours.
FAMILY = re.compile(r"[a-z][a-z0-9\-]{0,62}\Z")

PROJECT = re.compile(r"[A-Za-z0-9_\-]{1,64}\Z")
DEFAULT_PROJECT: Final = "default"
REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}\Z")
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")
SHA256 = re.compile(r"[0-9a-f]{64}\Z")
TREE_DIGEST = re.compile(r"b3t:[0-9a-f]{64}\Z")
MAX_FILE_NAME: Final = 255
FINGERPRINT = re.compile(r"[\x21-\x7e]{0,128}\Z")

# A page holds 100 entries unless asked otherwise, 1,000 at most.
DEFAULT_PAGE: Final = 100
MAX_PAGE: Final = 1000

# One write message of an upload, in bytes.
MAX_WRITE_BYTES: Final = 1 << 20

# Files that are unpacked at once by a daemon: a decompressor may take 128 MiB.
MAX_UNPACKERS: Final = 2

# Images or projects in one request on members, and pairs of them (the hosted service's console takes 100
# projects: contract §7): one transaction changes them all.
MAX_LISTED_IDS: Final = 100
MAX_MEMBER_PAIRS: Final = 1000
