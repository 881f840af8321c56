"""Signatures of requests, version 4: "Authenticating Requests: Using the Authorization Header" of Amazon S3.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from typing import Final
from urllib.parse import quote

from .keys import AccessKey

# In the place of the digest of a body: TLS, or this machine, sees to it that nobody alters it.
UNSIGNED: Final = "UNSIGNED-PAYLOAD"

_ALGORITHM: Final = "AWS4-HMAC-SHA256"


def quoted_path(path: str) -> str:
    """As it is sent and signed: once, by the rules of S3."""
    return quote(path, safe="/-_.~")


def quoted_query(query: Mapping[str, str]) -> str:
    """Sorted, as it is sent and signed."""
    pairs = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in query.items())
    return "&".join(f"{name}={value}" for name, value in pairs)


def signed_headers(
    method: str,
    place: tuple[str, str, str],
    headers: Mapping[str, str],
    key: AccessKey,
    region: str,
    now: datetime,
) -> dict[str, str]:
    """``headers`` with the signature; their names are in lower case, and ``x-amz-content-sha256`` is there.

    ``place``: the host, the path and the query, the last two as they are sent. ``now``: in UTC.
    """
    host, path, query = place
    time = now.strftime("%Y%m%dT%H%M%SZ")
    signed = {**headers, "host": host, "x-amz-date": time}
    if key.token:
        signed["x-amz-security-token"] = key.token
    names = ";".join(sorted(signed))
    lines = [f"{name}:{signed[name].strip()}" for name in sorted(signed)]
    canonical = "\n".join([method, path, query, *lines, "", names, signed["x-amz-content-sha256"]])
    scope = f"{time[:8]}/{region}/s3/aws4_request"
    text = "\n".join([_ALGORITHM, time, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    derived = f"AWS4{key.secret}".encode()
    for part in scope.split("/"):
        derived = hmac.digest(derived, part.encode(), "sha256")
    signature = hmac.digest(derived, text.encode(), "sha256").hex()
    said = f"{_ALGORITHM} Credential={key.id}/{scope}, SignedHeaders={names}, Signature={signature}"
    return {**signed, "authorization": said}
