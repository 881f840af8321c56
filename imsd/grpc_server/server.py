"""The gRPC server: servicers, health, reflection, sockets."""

from __future__ import annotations

import asyncio
import errno
import grp
import os
import socket
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from imsd.contract import InvalidRequest, run_blocking
from imsd.core.access import Access
from imsd.core.attachments.attachments import Attachments
from imsd.core.buckets import BucketPages, Buckets
from imsd.core.downloads import Downloads
from imsd.core.driver_list import DriverList
from imsd.core.guest_inspection import GuestInspection
from imsd.core.handed_files import HandedFiles
from imsd.core.identity_services import IdentityServices
from imsd.core.image_copies import ImageCopies
from imsd.core.image_deletion import ImageDeletion
from imsd.core.image_exports import ImageExports
from imsd.core.image_jobs import ImageJobs
from imsd.core.image_states import ImageStates
from imsd.core.image_update import ImageUpdates
from imsd.core.images import Images
from imsd.core.jobs import Jobs
from imsd.core.keys.keys import Keys
from imsd.core.members import Members
from imsd.core.objects.bucket_objects import BucketObjects
from imsd.core.policy_checks import PolicyChecks
from imsd.core.runtime import Runtime
from imsd.core.store_upkeep.upkeep import StoreUpkeep
from imsd.core.stores.store_services import StoreServices
from imsd.core.tags import Tags
from imsd.core.trace_services import TraceServices
from imsd.core.uploads import Uploads
from imsd.core.usage import Usage
from imsd.v1 import (
    attachment_pb2,
    attachment_pb2_grpc,
    bucket_pb2,
    bucket_pb2_grpc,
    catalog_pb2,
    catalog_pb2_grpc,
    driver_pb2,
    driver_pb2_grpc,
    identity_pb2,
    identity_pb2_grpc,
    image_pb2,
    image_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
    key_pb2,
    key_pb2_grpc,
    member_pb2,
    member_pb2_grpc,
    policy_pb2,
    policy_pb2_grpc,
    quota_pb2,
    quota_pb2_grpc,
    store_pb2,
    store_pb2_grpc,
    store_upkeep_pb2,
    store_upkeep_pb2_grpc,
    tag_pb2,
    tag_pb2_grpc,
    trace_pb2,
    trace_pb2_grpc,
    upload_pb2,
    upload_pb2_grpc,
)

from .attachment_servicer import AttachmentServicer
from .bucket_servicer import BucketServicer
from .call_trace import CallTraces
from .catalog_servicer import CatalogServicer
from .driver_servicer import DriverServicer
from .file_socket import SUFFIX, FileSocket
from .gate import Gate
from .identity_servicer import IdentityServicer
from .image_servicer import ImageServicer
from .interceptor import CallInterceptor
from .job_servicer import JobServicer
from .key_servicer import KeyServicer
from .member_servicer import MemberServicer
from .policy_servicer import PolicyServicer
from .quota_servicer import QuotaServicer
from .server_pair import ServerPair
from .store_servicer import StoreServicer
from .store_upkeep_servicer import StoreUpkeepServicer
from .tag_servicer import TagServicer
from .trace_servicer import TraceServicer
from .upload_servicer import UploadServicer

if TYPE_CHECKING:
    from .tls import ServerTls

log = structlog.get_logger(__name__)

# So long watchers of the daemon's health may take to hear that it stops.
NEWS_SECONDS = 5.0

SERVICES = tuple(
    file.DESCRIPTOR.services_by_name[name].full_name
    for file, name in (
        (image_pb2, "ImageService"),
        (upload_pb2, "UploadService"),
        (job_pb2, "JobService"),
        (catalog_pb2, "CatalogService"),
        (driver_pb2, "DriverService"),
        (store_pb2, "StoreService"),
        (member_pb2, "MemberService"),
        (tag_pb2, "TagService"),
        (quota_pb2, "QuotaService"),
        (identity_pb2, "IdentityService"),
        (bucket_pb2, "BucketService"),
        (attachment_pb2, "AttachmentService"),
        (policy_pb2, "PolicyService"),
        (trace_pb2, "TraceService"),
        (store_upkeep_pb2, "StoreUpkeepService"),
        (key_pb2, "KeyService"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """The parts of the core that are served."""

    runtime: Runtime
    images: Images
    image_jobs: ImageJobs
    updates: ImageUpdates
    states: ImageStates
    deletion: ImageDeletion
    upkeep: StoreUpkeep
    downloads: Downloads
    uploads: Uploads
    jobs: Jobs
    inspection: GuestInspection
    copies: ImageCopies
    exports: ImageExports
    members: Members
    access: Access
    identity: IdentityServices
    buckets: Buckets
    objects: BucketObjects
    attachments: Attachments
    drivers: DriverList
    stores: StoreServices
    usage: Usage
    traces: TraceServices
    keys: Keys
    policy_checks: PolicyChecks


class GrpcServer:
    """Serves on any number of sockets and addresses."""

    def __init__(self, core: Core, max_upload_streams: int, tls: ServerTls | None = None) -> None:
        """``tls``: of all TCP addresses."""
        traces = CallTraces(core.runtime, core.traces.recorder)
        self.calls = CallInterceptor(Gate(core.identity, core.access, traces))
        self._addresses: list[str] = []
        self._files = HandedFiles()
        self._file_sockets: list[FileSocket] = []
        self._health = health.aio.HealthServicer()
        self._servers = ServerPair(self.calls, tls)
        _add_servicers(self._servers, core, self._files, max_upload_streams)
        self._servers.add(health_pb2_grpc.add_HealthServicer_to_server, self._health)
        self._servers.add(
            reflection.enable_server_reflection, [*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME]
        )

    async def bind(self, addresses: Sequence[str]) -> list[str]:
        """Take the addresses; returns them as bound (a port 0 becomes the one the kernel chose).

        Nothing is answered before `start`. Call it while nothing else makes files: the mask of new files,
        which is the process's, is another one meanwhile. Raises InvalidRequest (INVALID_CONFIGURATION) for
        an address that cannot be listened on.
        """
        self._addresses = [await self._bind(address) for address in addresses]
        return self._addresses

    async def start(self, socket_mode: int, socket_group: str) -> None:
        """Serve. Raises InvalidRequest (INVALID_CONFIGURATION)."""
        await self._servers.start()
        paths = [address.removeprefix("unix:") for address in self._addresses if address.startswith("unix:")]
        for path in [*paths, *(each.path for each in self._file_sockets)]:
            await run_blocking(_open_to_group, path, socket_mode, socket_group)
        for each in self._file_sockets:
            each.start()
        for service in ("", *SERVICES):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    async def drain(self, seconds: float) -> None:
        """Refuse new calls, let running ones finish within ``seconds``, then cut them."""
        self.calls.begin_draining()
        with suppress(TimeoutError):  # it waits for every watcher to take the news
            await asyncio.wait_for(self._health.enter_graceful_shutdown(), NEWS_SECONDS)
        try:
            await asyncio.wait_for(self.calls.drained(), seconds)
        except TimeoutError:
            pass
        for each in self._file_sockets:
            each.close()
        await self._servers.stop()
        # The server does not wait for the `finally` blocks of handlers it cut; their work is counted.
        await self.calls.drained()
        self._files.close()

    async def _bind(self, address: str) -> str:
        if address.startswith("unix:"):
            await run_blocking(_clear_stale_socket, address.removeprefix("unix:"))
        old_mask = os.umask(0o177)
        try:
            port = self._add_port(address)
            if address.startswith("unix:"):
                self._bind_file_socket(address.removeprefix("unix:") + SUFFIX)
        finally:
            os.umask(old_mask)
        return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"

    def _add_port(self, address: str) -> int:
        try:
            return self._servers.add_port(address)
        except RuntimeError as error:
            raise InvalidRequest(
                f"cannot listen on {address}",
                reason="INVALID_CONFIGURATION",
                hint="is the address in use, or the folder missing or not writable?",
            ) from error

    def _bind_file_socket(self, path: str) -> None:
        file_socket = FileSocket(path, self._files)
        try:
            file_socket.bind()
        except OSError as error:  # its name is too long, say: files are sent as bytes then
            log.warning("files cannot be handed over", path=path, error=str(error))
        else:
            self._file_sockets.append(file_socket)


def _add_servicers(servers: ServerPair, core: Core, files: HandedFiles, max_upload_streams: int) -> None:
    runtime = core.runtime
    uploads = UploadServicer(core.uploads, files, runtime, max_upload_streams)
    stores = StoreServicer(core.stores, core.jobs)
    buckets = BucketServicer(core.buckets, BucketPages(core.buckets, runtime.tokens), core.objects)
    add = servers.add
    add(image_pb2_grpc.add_ImageServiceServicer_to_server, ImageServicer(core))
    add(upload_pb2_grpc.add_UploadServiceServicer_to_server, uploads)
    upkeep = StoreUpkeepServicer(core.upkeep, core.jobs, core.access)
    add(store_upkeep_pb2_grpc.add_StoreUpkeepServiceServicer_to_server, upkeep)
    add(bucket_pb2_grpc.add_BucketServiceServicer_to_server, buckets)
    add(attachment_pb2_grpc.add_AttachmentServiceServicer_to_server, AttachmentServicer(core.attachments))
    add(job_pb2_grpc.add_JobServiceServicer_to_server, JobServicer(core.jobs))
    add(member_pb2_grpc.add_MemberServiceServicer_to_server, MemberServicer(core.members, core.jobs))
    add(catalog_pb2_grpc.add_CatalogServiceServicer_to_server, CatalogServicer(runtime))
    add(driver_pb2_grpc.add_DriverServiceServicer_to_server, DriverServicer(core.drivers))
    add(store_pb2_grpc.add_StoreServiceServicer_to_server, stores)
    add(tag_pb2_grpc.add_TagServiceServicer_to_server, TagServicer(Tags(runtime)))
    add(quota_pb2_grpc.add_QuotaServiceServicer_to_server, QuotaServicer(runtime, core.usage))
    add(policy_pb2_grpc.add_PolicyServiceServicer_to_server, PolicyServicer(core.policy_checks))
    add(identity_pb2_grpc.add_IdentityServiceServicer_to_server, IdentityServicer(core.identity))
    add(key_pb2_grpc.add_KeyServiceServicer_to_server, KeyServicer(core.keys, core.jobs))
    add(trace_pb2_grpc.add_TraceServiceServicer_to_server, TraceServicer(core.traces.traces))


def _clear_stale_socket(path: str) -> None:
    """Remove a socket file that nobody answers on; gRPC would take over a living one silently."""
    try:
        Path(path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _refuse_other_files(path)
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(2)
            probe.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        Path(path).unlink(missing_ok=True)
        return
    except OSError as error:  # a timeout is one too: the socket's owner lives, but does not answer
        raise _no_socket(path, str(error)) from error
    raise _no_socket(path, "another daemon listens there")


def _no_socket(path: str, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"cannot listen on {path}: {why}",
        reason="INVALID_CONFIGURATION",
        hint="stop what has the socket, or choose another with --listen unix:PATH",
    )


def check_addresses(addresses: Sequence[str]) -> None:
    """Find what stands in the way of listening there, and change nothing.

    Raises InvalidRequest (INVALID_CONFIGURATION). gRPC would find a port in use as well, but writes a line
    of its own to standard error then.
    """
    for address in addresses:
        if address.startswith("unix:"):
            _refuse_other_files(address.removeprefix("unix:"))
        else:
            _require_free_port(address)


def _refuse_other_files(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError:  # it is not there yet; whether it can be made is seen when it is
        return
    if not stat.S_ISSOCK(mode):
        raise _no_socket(path, "it exists and is no socket")


def _require_free_port(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        for family, _, _, _, place in socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM
        ):
            _try_to_bind(family, place)
    except OSError as error:
        raise InvalidRequest(
            f"cannot listen on {address}: {error.strerror}",
            reason="INVALID_CONFIGURATION",
            hint="stop what listens there, or choose another with --listen HOST:PORT",
        ) from error


def _try_to_bind(family: int, place: tuple[Any, ...]) -> None:
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gRPC does
            probe.bind(place)
    except OSError as error:
        # "localhost" may stand for an IPv6 address that this machine does not have.
        if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise


def _open_to_group(path: str, mode: int, group: str) -> None:
    if group:
        try:
            os.chown(path, -1, grp.getgrnam(group).gr_gid)
        except (KeyError, PermissionError) as error:
            raise InvalidRequest(
                f"the socket cannot be given to group {group!r}",
                reason="INVALID_CONFIGURATION",
                hint="create the group, or set socket_group to another or to nothing",
            ) from error
    os.chmod(path, mode)
