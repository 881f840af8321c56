"""`connect`: the way to a daemon."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .address import default_address, parse_address
from .attachments import AttachmentCalls
from .buckets import BucketCalls
from .catalog import CatalogCalls, DriverCalls
from .channel import Credentials, open_channel
from .connection import Connection
from .identity import IdentityCalls
from .images import ImageCalls
from .jobs import JobCalls
from .keys import KeyCalls
from .members import MemberCalls
from .policies import PolicyCalls
from .quotas import QuotaCalls
from .store_upkeep import StoreUpkeepCalls
from .stores import StoreCalls
from .tags import TagCalls
from .traces import TraceCalls
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
        self.members = MemberCalls(connection)
        self.catalog = CatalogCalls(connection)
        self.buckets = BucketCalls(connection)
        self.attachments = AttachmentCalls(connection)
        self.drivers = DriverCalls(connection)
        self.keys = KeyCalls(connection)
        self.stores = StoreCalls(connection)
        self.store_upkeep = StoreUpkeepCalls(connection)
        self.tags = TagCalls(connection)
        self.identity = IdentityCalls(connection)
        self.quotas = QuotaCalls(connection)
        self.policies = PolicyCalls(connection)
        self.traces = TraceCalls(connection)


@asynccontextmanager
async def connect(
    address: str = "",
    project_id: str = "",
    *,
    token: str = "",
    ca_file: str = "",
    cert_file: str = "",
    key_file: str = "",
) -> AsyncIterator[ImsClient]:
    """A client of the daemon at ``address``: ``unix:PATH``, ``tls://HOST:PORT`` or, on this machine,
    ``HOST:PORT``; empty: the default.

    ``token`` and the files say who calls, see `Credentials`; without any, the unix socket makes the caller
    the local administrator. Nothing is sent before the first call. Raises ValueError when ``address`` is
    none, or not one that a token can be sent to; LocalFileFailed when a file cannot be used.
    """
    target = parse_address(address) if address else default_address()
    said = Credentials(token=token, ca_file=ca_file, cert_file=cert_file, key_file=key_file)
    channel = open_channel(target, said)
    try:
        yield ImsClient(Connection(channel, target, project_id))
    finally:
        await channel.close()
