"""The composition root: configuration, plugins, database, stores, core, server. It alone knows everything."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import structlog

import imsd
from imsd.allocator import keep_loaded_objects
from imsd.block_server_start import block_server_of
from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.spool import SpoolFolder
from imsd.config import Config
from imsd.contract import ImsError, run_blocking
from imsd.core.access import Access
from imsd.core.attachments.attachment_services import attachment_services
from imsd.core.background import Background
from imsd.core.bucket_sections import configured_buckets
from imsd.core.bucket_usage import BucketUsage
from imsd.core.buckets import Buckets, open_buckets
from imsd.core.dispatcher import Dispatcher
from imsd.core.downloads import Downloads, Outlet
from imsd.core.driver_list import DriverList
from imsd.core.export_rules import ExportPolicy
from imsd.core.export_target import ExportTargets
from imsd.core.fetching import Fetching
from imsd.core.guest_inspection import GuestInspection
from imsd.core.identity_services import identity_services
from imsd.core.image_copies import ImageCopies
from imsd.core.image_deletion import ImageDeletion
from imsd.core.image_exports import ImageExports
from imsd.core.image_jobs import ImageJobs
from imsd.core.image_making import ImageMaker
from imsd.core.image_states import ImageStates
from imsd.core.image_update import ImageUpdates
from imsd.core.images import Images
from imsd.core.job_board import JobBoard
from imsd.core.job_run import Workflow
from imsd.core.jobs import Jobs
from imsd.core.keys.data_keys import DataKeys
from imsd.core.keys.descriptors import Descriptors
from imsd.core.keys.key_pool import open_key_pool
from imsd.core.keys.key_sections import configured_key_services
from imsd.core.keys.keys import Keys
from imsd.core.keys.project_keys import ProjectKeys
from imsd.core.members import Members
from imsd.core.objects.bucket_objects import BucketObjects
from imsd.core.page_token import PageTokens
from imsd.core.plugin_registry import load_plugins
from imsd.core.policies.decisions import Policies
from imsd.core.policies.loading import load_policies
from imsd.core.policy_checks import PolicyChecks
from imsd.core.runtime import Runtime
from imsd.core.service_limits import ServiceLimits
from imsd.core.sources import Sources
from imsd.core.state_directory import locked_state_directory, token_secret, trace_secret
from imsd.core.store_pool import open_store_pool
from imsd.core.store_sections import configured_stores
from imsd.core.store_upkeep.scrub_jobs import ScrubSettings
from imsd.core.store_upkeep.upkeep import StoreUpkeep, UpkeepSettings
from imsd.core.stores.store_services import store_services, store_workflows
from imsd.core.sweeper import Sweeper
from imsd.core.trace_services import TraceServices, trace_services
from imsd.core.uploads import Uploads
from imsd.core.usage import Usage
from imsd.core.workflows.change_members import AddMembers, RemoveMembers, UpdateMembers
from imsd.core.workflows.copy_image import CopyImage
from imsd.core.workflows.create_image import CreateImage
from imsd.core.workflows.export_image import ExportImage
from imsd.core.workflows.repack_store import RepackStore
from imsd.core.workflows.rotate_key import RotateKey
from imsd.core.workflows.scrub_store import ScrubStore
from imsd.core.workflows.verify_image import VerifyImage
from imsd.grpc_server.server import Core, GrpcServer, check_addresses
from imsd.guest.inspector import GuestInspector
from imsd.guest.spawner_link import CannotInspect
from imsd.metadata import chunk_index
from imsd.metadata.chunk_index import SqlChunkIndex
from imsd.metadata.database import open_database
from imsd.metadata.records import JobKind
from imsd.metadata.service import service_id
from imsd.network_access import oidc_tokens, server_tls
from imsd.opened_sources import open_sources
from imsd.own_places import closed_places, require_apart
from imsd.service_notify import notify

if TYPE_CHECKING:
    from imsd.core.oidc import OidcTokens
    from imsd.grpc_server.tls import ServerTls

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What is opened beside the runtime."""

    sources: Sources
    buckets: Buckets
    drivers: DriverList
    inspector: GuestInspector
    policies: Policies
    tls: ServerTls | None
    oidc: OidcTokens | None
    trace_secret: bytes


class Daemon:
    """A running daemon; `open_daemon` makes one."""

    def __init__(self, config: Config, runtime: Runtime, around: Surroundings) -> None:
        sources, inspector = around.sources, around.inspector
        self._config = config
        self.runtime = runtime
        self._sweeper = Sweeper(runtime)
        board = JobBoard()
        self.uploads = Uploads(runtime, self._sweeper)
        keys = ProjectKeys(runtime)
        workflows = _workflows(self.uploads, self._sweeper, sources, ImageMaker(inspector), keys)
        outlet = Outlet(runtime, self._sweeper, SpoolFolder(config.state_dir, config.spool_quota_bytes))
        policy = ExportPolicy(runtime.limits, config.export_refused_platforms)
        targets = ExportTargets()
        export = {JobKind.EXPORT_IMAGE: ExportImage(outlet, around.buckets, policy, targets)}
        self._dispatcher = Dispatcher(runtime, board, {**workflows, **export})
        self._keys = Keys(runtime, keys, self._dispatcher)
        self._descriptors = Descriptors(runtime, self._sweeper)
        self._jobs = Jobs(runtime, board, self._dispatcher)
        self._identity = identity_services(runtime, around.oidc)
        self._usage = Usage(runtime, timedelta(days=config.usage_retention_days))
        self._bucket_usage = BucketUsage(runtime, around.buckets)
        self._access = access = Access(runtime.database, around.policies)
        self._traces = _trace_services(runtime, around, config)
        self._reloading = asyncio.Lock()
        self._disks = attachment_services(runtime, self._sweeper, block_server_of(config), config.state_dir)
        images = Images(runtime)
        self._deletion = ImageDeletion(runtime, self._sweeper)
        self._upkeep = StoreUpkeep(runtime, self._dispatcher, _upkeep_settings(config))
        self._server = GrpcServer(
            Core(
                runtime=runtime,
                images=images,
                updates=ImageUpdates(runtime),
                states=ImageStates(runtime),
                deletion=self._deletion,
                upkeep=self._upkeep,
                image_jobs=ImageJobs(runtime, self._dispatcher, self.uploads, sources),
                downloads=Downloads(runtime, images, outlet),
                uploads=self.uploads,
                jobs=self._jobs,
                inspection=GuestInspection(runtime, self._sweeper, images, inspector),
                copies=ImageCopies(runtime, self._dispatcher),
                exports=ImageExports(runtime, self._dispatcher, around.buckets, policy),
                members=Members(runtime, self._dispatcher),
                buckets=around.buckets,
                objects=BucketObjects(runtime, around.buckets, targets),
                attachments=self._disks.attachments,
                drivers=around.drivers,
                stores=store_services(runtime, self._dispatcher),
                access=access,
                policy_checks=PolicyChecks(runtime, access, self._identity.principals, policy),
                identity=self._identity,
                usage=self._usage,
                traces=self._traces,
                keys=self._keys,
            ),
            config.max_upload_streams,
            around.tls,
        )
        self.addresses: list[str] = []

    async def start(self) -> None:
        """Recover what an earlier run left, then serve; the addresses are taken before any work begins."""
        self.addresses = await self._server.bind(self._config.listen)
        async with self.runtime.database.transaction() as c:
            await chunk_index.release_readers(c)
        await self._traces.upkeep.start()
        recovered = await self._dispatcher.start()
        self._sweeper.start(
            self._config.sweep_interval_seconds,
            self.uploads.expire,
            self._deletion.purge_due,
            self._keys.look_after,
            self._descriptors.keep,
            self._disks.keeper.tidy,
        )
        self._upkeep.start(self._config.sweep_interval_seconds)
        self._disks.keeper.start()
        self._usage.start()
        self._bucket_usage.start()
        await self._server.start(self._config.socket_mode, self._config.socket_group)
        log.info("ready", version=imsd.__version__, addresses=self.addresses, recovered_jobs=recovered)

    async def reload_policies(self) -> None:
        """Decide by the policies as their files are now. Wrong ones are logged, and change nothing."""
        async with self._reloading:
            try:
                policies = Policies(await run_blocking(load_policies, self._config.policy_dir))
            except ImsError as error:
                log.error("the policies stay as they were", error=error.message)
                return
            self._access.use(policies)
        log.info("policies are loaded", policies=len(policies.texts))

    def hang_up(self) -> None:
        """What SIGHUP asks for."""
        self.runtime.background.spawn(self.reload_policies(), "reload of the policies")

    async def stop(self) -> None:
        """Refuse new work, let running work finish within the drain time, leave the rest resumable."""
        drain = self._config.drain_seconds
        self._jobs.stop_watching()
        await asyncio.gather(self._server.drain(drain), self._dispatcher.stop(drain))
        await self._disks.keeper.stop()
        await self.uploads.close()
        await self._sweeper.stop()
        await self._upkeep.stop()
        await self._usage.stop()
        await self._bucket_usage.stop()
        self._identity.close()
        await self.runtime.background.settle()
        await self._traces.upkeep.stop()


def _workflows(
    uploads: Uploads, sweeper: Sweeper, sources: Sources, maker: ImageMaker, keys: ProjectKeys
) -> Mapping[JobKind, Workflow]:
    return {
        JobKind.CREATE_IMAGE: CreateImage(uploads, sweeper, Fetching(sources), maker),
        JobKind.VERIFY_IMAGE: VerifyImage(sweeper),
        JobKind.SCRUB_STORE: ScrubStore(),
        JobKind.REPACK_STORE: RepackStore(sweeper),
        JobKind.COPY_IMAGE: CopyImage(sweeper, maker),
        **store_workflows(sweeper),
        JobKind.ADD_MEMBERS: AddMembers(),
        JobKind.UPDATE_MEMBERS: UpdateMembers(),
        JobKind.REMOVE_MEMBERS: RemoveMembers(),
        JobKind.ROTATE_KEY: RotateKey(keys),
    }


def _trace_services(runtime: Runtime, around: Surroundings, config: Config) -> TraceServices:
    ends = config.state_dir / "trace-ends"
    return trace_services(runtime, around.trace_secret, ends, config.trace_retention_days)


@asynccontextmanager
async def open_daemon(config: Config) -> AsyncIterator[Daemon]:
    """A started daemon, stopped when the block is left. Raises `ImsError` when it cannot start."""
    registry = load_plugins(config.disabled_plugins)
    # Asked before anything is made: what a wrong configuration leaves behind would have to be cleaned up.
    own_stores = configured_stores(registry, config.stores, config.default_store)
    own_buckets = configured_buckets(registry, config.buckets, config.region)
    own_keys = configured_key_services(registry, config.key_services, config.default_key_service)
    await run_blocking(require_apart, config, own_stores, own_buckets, own_keys)
    await run_blocking(check_addresses, config.listen)
    policies = Policies(await run_blocking(load_policies, config.policy_dir))
    tls = await run_blocking(server_tls, config)
    async with AsyncExitStack() as stack:
        state_dir = stack.enter_context(locked_state_directory(config.state_dir))
        database = await stack.enter_async_context(open_database(config.database_url))
        stores = await stack.enter_async_context(
            open_store_pool(registry, config.stores, config.default_store)
        )
        keys = await stack.enter_async_context(
            open_key_pool(registry, config.key_services, config.default_key_service)
        )
        buckets = await stack.enter_async_context(open_buckets(registry, config.buckets, config.region))
        async with database.transaction() as c:
            service = await service_id(c, _new_id(), _now())
        pool = DecodePool(config.decode_threads or None, config.buffer_bytes)
        stack.callback(pool.close)
        runtime = Runtime(
            database=database,
            index=SqlChunkIndex(database, _now),
            stores=stores,
            keys=keys,
            data_keys=DataKeys(database, keys, _now, remember_seconds=config.key_cache_seconds),
            pool=pool,
            background=Background(),
            tokens=PageTokens(token_secret(state_dir)),
            limits=_limits(config),
            region=config.region,
            service_id=service,
            instance_id=_new_id(),
            clock=_now,
            new_id=_new_id,
        )
        inspector = await stack.enter_async_context(_open_inspector())
        closed = await run_blocking(closed_places, config, own_stores, own_buckets, own_keys)
        sources = await stack.enter_async_context(open_sources(config, closed, buckets, pool))
        around = Surroundings(
            sources=sources,
            buckets=buckets,
            drivers=DriverList(registry, stores, buckets.opened, keys),
            inspector=inspector,
            policies=policies,
            tls=tls,
            oidc=await run_blocking(oidc_tokens, config, runtime),
            trace_secret=await run_blocking(trace_secret, state_dir),
        )
        daemon = Daemon(config, runtime, around)
        try:
            await daemon.start()
            yield daemon
        finally:
            await daemon.stop()


@asynccontextmanager
async def _open_inspector() -> AsyncIterator[GuestInspector]:
    """Looks inside disks; a machine where it cannot still imports them, and says so with each."""
    inspector = GuestInspector()
    try:
        try:
            await inspector.start()
        except CannotInspect as error:
            log.warning("disks cannot be looked into", error=str(error))
        yield inspector
    finally:
        await inspector.close()


def run(config: Config) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP loads the policies anew. Raises `ImsError` if it cannot start."""
    asyncio.run(_serve(config))


async def _serve(config: Config) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with open_daemon(config) as daemon:
        keep_loaded_objects()
        loop.add_signal_handler(signal.SIGHUP, daemon.hang_up)
        notify("READY=1", f"STATUS=listening on {', '.join(daemon.addresses)}", f"MAINPID={os.getpid()}")
        await stopping.wait()
        log.info("stopping", drain_seconds=config.drain_seconds)
        notify("STOPPING=1", "STATUS=finishing what runs")
    log.info("stopped")


def _limits(config: Config) -> ServiceLimits:
    return ServiceLimits(
        max_virtual_size_bytes=config.max_virtual_size_bytes,
        max_upload_size_bytes=config.max_upload_size_bytes,
        staging_quota_bytes=config.staging_quota_bytes,
        upload_part_bytes=config.upload_part_bytes,
        upload_expiry=timedelta(hours=config.upload_expiry_hours),
        undelete_time=timedelta(hours=config.undelete_hours),
        max_running_create_jobs=config.max_running_create_jobs,
        quotas=dict(config.quotas),
        **dict(config.limits),
    )


def _upkeep_settings(config: Config) -> UpkeepSettings:
    every, rate = timedelta(days=config.scrub_interval_days), config.scrub_bytes_per_second
    return UpkeepSettings(scrubs=ScrubSettings(every, rate), dead_percent=config.repack_dead_percent)


def _now() -> datetime:
    return datetime.now(UTC)


def _new_id() -> str:
    return str(uuid.uuid4())
