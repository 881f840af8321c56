"""`connect`: the way to a daemon."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc.aio

from .address import default_address, parse_address
from .buckets import BucketCalls
from .catalog import CatalogCalls, DriverCalls
from .connection import CHANNEL_OPTIONS, Connection
from .images import ImageCalls
from .jobs import JobCalls
from .tags import TagCalls
from .uploads import UploadCalls


class ImsClient:
    """The services of one daemon, for one project."""

    def __init__(self, connection: Connection) -> None:
        self.address = connection.address
        self.outages = connection.outages
        self.backoff = connection.backoff
        self.images = ImageCalls(connection)
        self.uploads = UploadCalls(connection)
        self.jobs = JobCalls(connection)
        self.catalog = CatalogCalls(connection)
        self.buckets = BucketCalls(connection)
        self.drivers = DriverCalls(connection)
        self.tags = TagCalls(connection)


@asynccontextmanager
async def connect(address: str = "", project_id: str = "") -> AsyncIterator[ImsClient]:
    """A client of the daemon at ``address`` (``unix:PATH`` or ``HOST:PORT``; empty: the default).

    Nothing is sent before the first call. Raises ValueError when ``address`` is none.
    """
    target = parse_address(address) if address else default_address()
    async with grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
        yield ImsClient(Connection(channel, target, project_id))
