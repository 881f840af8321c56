"""What can be configured of a store in a bucket of an S3 service."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from imsd.contract import InvalidRequest

MIB: Final = 1 << 20

# A bucket's name, as AWS has them, and the wider ones of other services.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}\Z")
_LABEL = re.compile(r"[a-z0-9][a-z0-9-]*\Z")
_HOST_AND_PORT = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?\Z")
_REGION = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}\Z")
_FOLDERS = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*\Z")
_CREDENTIAL_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}\Z")

# Keys of S3 have at most 1,024 bytes, ids of blobs up to 255.
_MAX_PREFIX = 700

# Of each number: the lowest and the highest value.
_RANGES: Final[dict[str, tuple[float, float]]] = {
    "part_bytes": (5 * MIB, 256 * MIB),
    "parts_at_once": (1, 64),
    "requests_at_once": (1, 256),
    "connect_seconds": (0.1, 300),
    "stall_seconds": (0.1, 3600),
    "request_seconds": (1, 24 * 3600),
    "retries": (0, 100),
    "retry_seconds": (0, 3600),
    "stale_upload_hours": (0, 24 * 365),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class S3StoreOptions:
    """The keys of a section ``[stores.NAME]`` with ``driver = "s3"``.

    The secret key is none of them: it comes from a file, a credential of systemd or the environment.
    """

    # The bucket; it must exist.
    bucket: str

    # The service, with scheme and port: "https://s3.example.org:8333". By default that of AWS in `s3_region`.
    endpoint: str | None = None

    # Put before the id of each blob, with a slash between: several stores may share a bucket.
    prefix: str = ""

    # What requests are signed for. (In a section of a bucket, the key `region` says another thing.)
    s3_region: str = "us-east-1"

    # The bucket in the path of the URL; false: in the name of the host.
    path_style: bool = True

    # Whether http:// is allowed beyond this machine; within it, it is.
    allow_http: bool = False

    # Certificates in PEM that are trusted besides those of the system.
    ca_file: Path | None = None

    # A file with the access key and its secret, as the programs of AWS have it; and which of its sections.
    keys_file: Path | None = None
    keys_profile: str = "default"

    # The same file as a credential of systemd, by its name (LoadCredential=NAME:...). With neither, the
    # environment is asked: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN.
    systemd_keys: str | None = None

    # Whether the service refuses to replace an object when it is told so (If-None-Match).
    put_if_absent: bool = True

    # Blobs longer than this are sent in parts of this size, 5 MiB to 256 MiB; so much memory takes an ingest.
    part_bytes: int = 8 * MIB

    # Parts of all ingests that are on their way at once, 1 to 64; each takes memory besides.
    parts_at_once: int = 4

    # Requests that read, of the whole store, 1 to 256.
    requests_at_once: int = 16

    # Seconds to connect; without a byte moving; of one request altogether.
    connect_seconds: float = 10.0
    stall_seconds: float = 30.0
    request_seconds: float = 600.0

    # How often a request is tried again, 0 to 100, and for how many seconds at most.
    retries: int = 8
    retry_seconds: float = 90.0

    # Uploads in parts that were never completed are removed when they are this old; 0: never. Longer than
    # the longest upload takes.
    stale_upload_hours: float = 24.0

    def __post_init__(self) -> None:
        _check(_BUCKET.match(self.bucket), "bucket", f"{self.bucket[:80]!r} is no name of a bucket")
        _check(_REGION.match(self.s3_region), "s3_region", f"{self.s3_region[:80]!r} is no region")
        is_path = not self.prefix or (_FOLDERS.match(self.prefix) and len(self.prefix) <= _MAX_PREFIX)
        _check(is_path, "prefix", f"{self.prefix[:80]!r} is no prefix: folders, without a slash at the ends")
        for key, (lowest, highest) in _RANGES.items():
            value = getattr(self, key)
            _check(
                lowest <= value <= highest, key, f"{key} is {value}, but must be {lowest:g} to {highest:g}"
            )
        has_two = self.keys_file is not None and self.systemd_keys is not None
        _check(
            not has_two, "systemd_keys", "keys_file and systemd_keys are both given: one of them is enough"
        )
        name = self.systemd_keys
        _check(not name or _CREDENTIAL_NAME.match(name), "systemd_keys", "is no name of a credential")
        self._check_endpoint()

    def _check_endpoint(self) -> None:
        scheme, _, place = self.url.partition("://")
        is_plain = scheme.lower() in ("http", "https") and _HOST_AND_PORT.match(place)
        hint = "scheme, host and port: https://s3.example.org:8333"
        wrong = "the endpoint is no URL of a service"
        _check(is_plain, "endpoint", wrong, hint)
        try:
            parts = urlsplit(self.url)
            has_port = parts.port is None or 0 < parts.port < 65536
        except ValueError:  # of an address or a port
            has_port = False
        _check(has_port, "endpoint", wrong, hint)
        may_be_plain = parts.scheme == "https" or self.allow_http or is_loopback(parts.hostname or "")
        hint = "use https, or allow_http = true where nobody else can listen"
        _check(may_be_plain, "endpoint", "http:// would show images to the network", hint)
        fits_host = self.path_style or _LABEL.match(self.bucket)
        _check(fits_host, "path_style", f"the bucket {self.bucket!r} cannot be part of the name of a host")

    @property
    def url(self) -> str:
        """The service, without the bucket."""
        return (self.endpoint or f"https://s3.{self.s3_region}.amazonaws.com").rstrip("/")

    @property
    def place(self) -> str:
        """The service, the bucket and the prefix, the same for two that are the same."""
        parts = urlsplit(self.url)
        host = "localhost" if is_loopback(parts.hostname or "") else parts.hostname
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        return f"s3://{host}:{port}/{self.bucket}/{self.key('').lstrip('/')}"

    def key(self, blob: str) -> str:
        """The key of the object that holds a blob, or the beginning of one."""
        return f"{self.prefix}/{blob}" if self.prefix else blob


@dataclass(frozen=True, slots=True, kw_only=True)
class S3BucketOptions(S3StoreOptions):
    """The same of a section ``[buckets.NAME]``."""

    # Other programs upload there too, and nothing tells whose an upload is.
    stale_upload_hours: float = 0.0


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check(is_right: object, field: str, message: str, hint: str = "") -> None:
    if not is_right:
        raise InvalidRequest(message, reason="INVALID_CONFIGURATION", field=field, hint=hint)
