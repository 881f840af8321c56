"""What the daemon fetches images from, as the configuration says: URLs, paths of its machine, buckets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from imsd.chunks.decode_pool import DecodePool
from imsd.config import Config
from imsd.core.buckets import Buckets
from imsd.core.import_roots import ImportRoots
from imsd.core.sources import Sources
from imsd.core.url_policy import UrlPolicy
from imsd.core.url_settings import UrlLimits, UrlSettings, trusted_authorities


@asynccontextmanager
async def open_sources(
    config: Config, closed: Sequence[Path], buckets: Buckets, pool: DecodePool
) -> AsyncIterator[Sources]:
    """``closed``: as of `ImportRoots`. Raises InvalidRequest (INVALID_CONFIGURATION)."""
    said = config.url_import
    policy = UrlPolicy(
        allow_http=said.allow_http,
        ports=said.ports,
        allowed_networks=map(str, said.allowed_networks),
    )
    url_limits = UrlLimits(
        connections=said.connections,
        max_connections=said.max_connections,
        connect_seconds=said.connect_seconds,
        stall_seconds=said.stall_seconds,
        retry_seconds=said.retry_seconds,
    )
    projects = {Path(root): projects for root, projects in config.import_root_projects.items()}
    roots = ImportRoots(config.import_roots, closed, projects)
    urls = UrlSettings(policy, url_limits, trusted_authorities(said.ca_file))
    sources = Sources(urls, roots, buckets, pool, config.upload_part_bytes)
    try:
        yield sources
    finally:
        await sources.close()
