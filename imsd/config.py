"""The configuration of the daemon: its keys, their defaults, and what makes a value acceptable.

`imsd.config_loading` merges the layers (defaults < file < environment < flags) and makes a `Config`.
Sizes are bytes; a text such as "64MiB" is understood too. All paths are absolute after loading.
"""

from __future__ import annotations

import grp
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from .config_access import LOOPBACK, Oidc, Tls
from .config_block_server import BlockServer
from .config_limits import Limits, Quotas
from .config_values import AbsolutePath, OptionalPath, Projects, Texts, absolute, octal, split

ENV_PREFIX = "IMSD_"

KIB, MIB, GIB, TIB = (1 << shift for shift in (10, 20, 30, 40))

# The longest path that fits a unix socket's address.
MAX_SOCKET_PATH = 107

MAX_PORT = 65535


def default_state_dir() -> Path:
    """/var/lib/imsd for root, else the user's state directory."""
    if os.geteuid() == 0:
        return Path("/var/lib/imsd")
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return home / "imsd"


def default_socket(state_dir: Path) -> Path:
    """/run/imsd/imsd.sock for root, else in the user's runtime directory or the state directory."""
    if os.geteuid() == 0:
        return Path("/run/imsd/imsd.sock")
    return Path(os.environ.get("XDG_RUNTIME_DIR") or state_dir) / "imsd.sock"


def default_socket_group() -> str:
    """ "ims" where the group exists and this process may give files to it."""
    try:
        found = grp.getgrnam("ims")
    except KeyError:
        return ""
    return "ims" if os.geteuid() == 0 or found.gr_gid in os.getgroups() else ""


class UrlImport(BaseModel):
    """How images are fetched from URLs. Times are seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Whether http:// may be fetched too: nothing proves then where the bytes come from.
    allow_http: bool = False

    # Ports that may be asked beside 443 (and 80, where http is allowed).
    ports: Annotated[
        tuple[Annotated[int, Field(ge=1, le=MAX_PORT)], ...], NoDecode, BeforeValidator(split)
    ] = ()

    # Networks that may be asked although they are not the public web's: "10.1.0.0/16", for example.
    allowed_networks: Annotated[tuple[IPvAnyNetwork, ...], NoDecode, BeforeValidator(split)] = ()

    # A file of certificates (PEM) that are trusted beside those of the system.
    ca_file: OptionalPath = None

    # Connections for one file, and for all files together. Each holds a few MiB.
    connections: Annotated[int, Field(ge=1, le=64)] = 4
    max_connections: Annotated[int, Field(ge=1, le=1000)] = 16

    # How long a server may take to connect, and between two bytes.
    connect_seconds: Annotated[float, Field(gt=0, le=600)] = 10.0
    stall_seconds: Annotated[float, Field(gt=0, le=3600)] = 30.0

    # How long attempts are repeated that bring no byte.
    retry_seconds: Annotated[float, Field(ge=0, le=86400)] = 120.0


class Config(BaseSettings):
    """Every key, with its default. Making one reads nothing but its arguments."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=ENV_PREFIX, env_nested_delimiter="__", validate_default=True
    )

    _file: Path | None = PrivateAttr(default=None)

    @property
    def file(self) -> Path | None:
        """What it was read from; None: no file."""
        return self._file

    def from_file(self, file: Path | None) -> Config:
        """The same, read from ``file``."""
        made = self.model_copy()
        made._file = file
        return made

    # Where the daemon keeps its database, its lock and, unless told otherwise, its store.
    state_dir: AbsolutePath = Field(default_factory=default_state_dir)

    # The certificate of TCP addresses, and whose client certificates are trusted.
    tls: Tls = Tls()

    # Where it listens: "unix:PATH" or "HOST:PORT" (port 0: one that is free). Who calls over TCP says who it
    # is; without `tls` only this machine may.
    listen: Texts = Field(default_factory=lambda given: (f"unix:{default_socket(given['state_dir'])}",))

    # Mode and group of unix sockets: whoever may open one is the local administrator.
    socket_mode: Annotated[int, BeforeValidator(octal)] = Field(0o660, ge=0, le=0o777)
    socket_group: str = Field(default_factory=default_socket_group)

    # The name of this place in the region field of its images.
    region: str = Field("local", pattern=r"^[A-Za-z0-9_-]{1,64}$")

    # The database, as an SQLAlchemy URL; SQLite in the state directory unless told otherwise.
    database_url: str = Field(
        default_factory=lambda given: f"sqlite+aiosqlite:///{given['state_dir'] / 'imsd.sqlite3'}"
    )

    # One section for each store: `driver`, `required`, and the options of the driver.
    stores: dict[str, dict[str, Any]] = Field(
        default_factory=lambda given: {"main": default_store_section(given["state_dir"])}
    )

    # The store that takes new images.
    default_store: str = Field(default_factory=lambda given: next(iter(given["stores"])))

    # One section for each bucket, from which images are imported and to which they are exported: `driver`,
    # `projects`, `region`, `storage_class`, `read_only`, `required`, and the options of the driver.
    buckets: dict[str, dict[str, Any]] = Field(
        default_factory=lambda given: {"main": default_bucket_section(given["state_dir"])}
    )

    # One section for each key service, which has the keys of encrypted images: `driver`, `required`, and the
    # options of the driver; none: nothing can be encrypted.
    key_services: dict[str, dict[str, Any]] = {}

    # The key service that gets new keys; empty: the only one.
    default_key_service: str = ""

    # How long an unwrapped data key is remembered, and images can still be opened whose key was disabled.
    key_cache_seconds: float = Field(10.0, ge=0, le=3600)

    # Plugins not to load, by the name of their entry point.
    disabled_plugins: Texts = ()

    # How long a daemon that stops waits for running calls and jobs.
    drain_seconds: float = Field(30.0, ge=0, le=3600)

    # The largest disk; and the largest file of an upload, whatever `limits` says of imports.
    max_virtual_size_bytes: ByteSize = Field(ByteSize(64 * TIB), ge=MIB, le=1 << 60)
    max_upload_size_bytes: ByteSize = Field(ByteSize(64 * TIB), ge=MIB, le=1 << 60)

    # What may be done with images of which size, and how much a project may have.
    limits: Limits = Limits()
    quotas: Quotas = Quotas()

    # Bytes that the uploads of one project may hold in the store; the quota of `staged_bytes`.
    staging_quota_bytes: ByteSize = Field(ByteSize(256 * GIB), ge=0, le=1 << 60)

    # Bytes that running downloads may hold in the state directory, so that they need not compress twice.
    spool_quota_bytes: ByteSize = Field(ByteSize(16 * GIB), ge=0, le=1 << 60)

    # An upload that nobody touches for so long is removed.
    upload_expiry_hours: float = Field(24.0, gt=0, le=24 * 365)

    # How long a deleted image can be brought back; 0: it is gone at once.
    undelete_hours: float = Field(24.0, ge=0, le=24 * 365)

    # Directories of this machine from which images may be imported by their path; none: refused.
    import_roots: Annotated[tuple[AbsolutePath, ...], NoDecode, BeforeValidator(split)] = ()

    # Of some of them, by their paths, the only projects that may import from there, or "*" for every one.
    import_root_projects: dict[str, Projects] = {}

    # A directory of policies (*.cedar) beside those of the service: who may do what; none: those alone.
    policy_dir: OptionalPath = None

    # The provider whose tokens say who calls.
    oidc: Oidc = Oidc()

    # Images from https:// URLs.
    url_import: UrlImport = UrlImport()

    # Disks that are used before they are copied: the block server, a process beside the daemon.
    block_server: BlockServer = BlockServer()

    # Images that descend from public images of these platforms are not exported.
    export_refused_platforms: Texts = ("Ubuntu",)

    # How much of an upload lies in one blob; at most one part is sent twice after a crash.
    upload_part_bytes: ByteSize = Field(ByteSize(64 * MIB), ge=MIB, le=GIB)

    # Create jobs that run at once; more wait.
    max_running_create_jobs: int = Field(40, ge=1, le=1000)

    # Uploads that are written at once; more wait. Each takes a few MiB beside `buffer_bytes`.
    max_upload_streams: int = Field(16, ge=1, le=1000)

    # Threads that decode, hash and compress; 0: one for each processor.
    decode_threads: int = Field(0, ge=0, le=256)

    # Bytes of images in memory, of all jobs together.
    buffer_bytes: ByteSize = Field(ByteSize(40 * MIB), ge=16 * MIB, le=TIB)

    # How long records of what projects used are kept.
    usage_retention_days: float = Field(400.0, gt=0, le=3660)

    # How long traces of calls are kept; 0: for ever. The hosted service shows seven days; what went wrong is
    # often looked into after weeks, and a trace takes some 2 KiB.
    trace_retention_days: float = Field(90.0, ge=0, le=36600)

    # How often unreferenced packs and expired uploads are looked for.
    sweep_interval_seconds: float = Field(300.0, gt=0, le=7 * 86400)

    # After so many days every stored byte is read again (0: only when asked), at most so many bytes a second
    # (0: no limit). One that was cancelled or failed goes on then, after six hours at the earliest.
    scrub_interval_days: float = Field(0.0, ge=0, le=3660)
    scrub_bytes_per_second: ByteSize = Field(ByteSize(64 * MIB), ge=0, le=TIB)

    # Packs of which at least so much is needed by no image any more are repacked; 0: only when asked.
    repack_dead_percent: int = Field(60, ge=0, le=99)

    # One line of JSON or of text for each event, on standard error; from which level on.
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only the arguments: `imsd.config_loading` reads the sources, to know where a value came from."""
        return (init_settings,)

    @field_validator("listen")
    @classmethod
    def _addresses(cls, listen: tuple[str, ...], given: ValidationInfo) -> tuple[str, ...]:
        if not listen:
            raise ValueError("at least one address is needed")
        tls = given.data.get("tls")
        listen = tuple(_address(address, has_tls=tls is not None and tls.is_used) for address in listen)
        if tls and (others := set(tls.mutual_addresses) - set(listen)):
            raise ValueError(f"{min(others)} of tls.mutual_addresses is not among them")
        return listen

    @field_validator("socket_group")
    @classmethod
    def _group(cls, name: str) -> str:
        if name:
            try:
                grp.getgrnam(name)
            except KeyError:
                raise ValueError(f"there is no group {name!r}") from None
        return name

    @field_validator("stores")
    @classmethod
    def _sections(cls, stores: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        if not stores:
            raise ValueError("at least one store is needed")
        _check_names(stores, "a store")
        return stores

    @field_validator("key_services")
    @classmethod
    def _key_services(cls, services: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        _check_names(services, "a key service")
        return services

    @field_validator("buckets")
    @classmethod
    def _bucket_names(cls, buckets: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name in buckets:
            if not re.fullmatch(r"[a-z0-9-]{1,64}", name):
                raise ValueError(
                    f"{name[:80]!r} is no name for a bucket: use lower-case letters, digits and '-'"
                )
        return buckets

    @field_validator("import_root_projects")
    @classmethod
    def _of_roots(
        cls, projects: dict[str, tuple[str, ...]], given: ValidationInfo
    ) -> dict[str, tuple[str, ...]]:
        found = {str(absolute(root)): names for root, names in projects.items()}
        if others := found.keys() - set(map(str, given.data.get("import_roots", ()))):
            raise ValueError(f"{min(others)} is not among import_roots")
        return found

    @model_validator(mode="after")
    def _default_store_exists(self) -> Self:
        if self.default_store not in self.stores:
            raise ValueError(
                f"default_store is {self.default_store!r}, but the stores are {', '.join(self.stores)}"
            )
        return self


# The sections whose keys are known, by name.
SECTIONS: Mapping[str, type[BaseModel]] = {
    name: field.annotation
    for name, field in Config.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}


def _check_names(sections: Mapping[str, object], what: str) -> None:
    """Raises ValueError."""
    for name in sections:
        if not name.replace("-", "").replace("_", "").isalnum() or len(name) > 64:
            raise ValueError(f"{name[:80]!r} is no name for {what}: use letters, digits, '-' and '_'")


def default_store_section(state_dir: Path) -> dict[str, Any]:
    return {"driver": "localfs", "path": str(state_dir / "store")}


def default_bucket_section(state_dir: Path) -> dict[str, Any]:
    return {"driver": "localfs", "path": str(state_dir / "bucket"), "projects": ["default"]}


def _address(address: str, *, has_tls: bool) -> str:
    """``address`` with an absolute path; ValueError when it is none."""
    if address.startswith("unix:"):
        given = address.removeprefix("unix:").removeprefix("//")
        if not given:
            raise ValueError(f"{address!r} names no socket: give its path, as in unix:/run/imsd.sock")
        path = os.path.abspath(os.path.expanduser(given))
        if len(os.fsencode(path)) > MAX_SOCKET_PATH:
            raise ValueError(f"the path of a socket has at most {MAX_SOCKET_PATH} bytes: {path}")
        return f"unix:{path}"
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isascii() or not port.isdecimal():
        raise ValueError(f"{address!r} is neither unix:PATH nor HOST:PORT")
    if int(port) > MAX_PORT:
        raise ValueError(f"the port of {address!r} must be 1 to {MAX_PORT}, or 0 for one that is free")
    # A token on its way would be seen by others, so a plain port stays on this machine.
    if not has_tls and host.strip("[]") not in LOOPBACK:
        raise ValueError(
            f"{address} can be reached from other machines, and nothing is encrypted: set tls.cert_file and "
            f"tls.key_file, or listen on 127.0.0.1:PORT or unix:PATH"
        )
    return address
