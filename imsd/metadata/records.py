"""Rows as the core sees them: frozen, typed, without SQL. Times are UTC and aware."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class ImageStatus(StrEnum):
    QUEUED = "queued"
    SAVING = "saving"
    ACTIVE = "active"
    KILLED = "killed"
    PENDING_DELETE = "pending_delete"
    DELETED = "deleted"
    DEACTIVATED = "deactivated"


class ImageKind(StrEnum):
    SYSTEM_DISK = "system_disk"
    DATA_DISK = "data_disk"
    ISO = "iso"


class Visibility(StrEnum):
    PRIVATE = "private"
    SHARED = "shared"  # it has members
    PUBLIC = "public"


class ServerKind(StrEnum):
    VIRTUAL = "virtual"
    BARE_METAL = "bare_metal"


class OriginKind(StrEnum):
    UPLOAD = "upload"
    URL = "url"
    LOCAL_PATH = "local_path"
    OBJECT = "object"
    IMAGE = "image"


class MemberStatus(StrEnum):
    PENDING = "pending"
    ACCEPTED = "accepted"
    REJECTED = "rejected"


class JobState(StrEnum):
    INIT = "init"
    RUNNING = "running"
    SUCCESS = "success"
    FAIL = "fail"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


class JobKind(StrEnum):
    CREATE_IMAGE = "create_image"
    VERIFY_IMAGE = "verify_image"
    COPY_IMAGE = "copy_image"
    EXPORT_IMAGE = "export_image"
    SCRUB_STORE = "scrub_store"
    REPACK_STORE = "repack_store"
    ADD_MEMBERS = "add_members"
    UPDATE_MEMBERS = "update_members"
    REMOVE_MEMBERS = "remove_members"
    ROTATE_KEY = "rotate_key"
    MOVE_IMAGE = "move_image"
    CHECK_STORE = "check_store"


class UploadState(StrEnum):
    OPEN = "open"
    COMMITTED = "committed"


class PartKind(StrEnum):
    """What a part of an upload is: bytes of the file in a blob, zeros, or chunks already stored."""

    DATA = "data"
    ZERO = "zero"
    SEGMENT = "segment"


# Without slots, so that `rows.made` can make one: a list has a thousand of them.
@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """One image; sizes in bytes, ``min_disk_gb`` in GiB, RAM in MiB. ``version`` is the etag."""

    id: str
    project_id: str
    region: str
    name: str
    status: ImageStatus
    store: str
    job_id: str
    created_at: datetime
    updated_at: datetime
    origin_image_id: str = ""
    description: str = ""
    disk_format: str = ""
    virtual_size: int = 0
    data_size: int = 0
    stored_size: int = 0
    new_size: int = 0
    digest: str = ""
    min_disk_gb: int = 0
    min_ram_mb: int = 0
    max_ram_mb: int = 0
    os_version: str = ""
    architecture: str = ""  # x86 or arm; empty: not known
    boot_mode: str = ""  # bios or uefi; empty: not known
    is_protected: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    findings: Sequence[Mapping[str, str]] = ()  # {"code": .., "message": ..}
    guest: Mapping[str, object] = field(default_factory=dict)  # a `GuestReport`; empty: none
    manifest_id: str = ""
    version: int = 1
    active_at: datetime | None = None
    visibility: Visibility = Visibility.PRIVATE
    kind: ImageKind = ImageKind.SYSTEM_DISK
    server_kind: ServerKind = ServerKind.VIRTUAL
    os_type: str = ""  # linux, windows or other; empty: not known
    os_bits: int = 0  # 32 or 64; 0: not known
    platform: str = ""
    family: str = ""
    deprecated_at: datetime | None = None
    replacement_image_id: str = ""
    is_published: bool = False
    product_code: str = ""
    deleted_at: datetime | None = None
    purge_at: datetime | None = None
    status_before: str = ""  # of an image that is PENDING_DELETE: what undeleting makes of it
    origin_kind: str = ""  # an `OriginKind`; empty: no disk yet
    origin: str = ""
    is_prepared: bool = False  # made without bytes, to be filled later
    is_fast_imported: bool = False
    public_platform: str = ""  # the platform of the public image it descends from; empty: of none
    is_market_derived: bool = False  # descends from a published image
    server_support: Mapping[str, object] = field(default_factory=dict)  # the marks that are set
    has_nic_multiqueue: bool = False
    shutdown_timeout_seconds: int = 60
    is_guest_configured: bool = False
    license_type: str = ""  # platform or byol; empty: not said
    enterprise_project_id: str = "0"
    agents: Sequence[str] = ()
    os_features: str = ""  # JSON text
    has_no_credential_injection: bool = False
    key_id: str = ""  # of the key under which it is encrypted; empty: it is not
    # Of the share with the project that asks, no column of the image; None: it is no member, or nobody asked.
    member_status: MemberStatus | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRecord:
    """The share of an image with a project. ``updated_at``: of the newest change of status."""

    image_id: str
    project_id: str
    status: MemberStatus
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """One job. ``spec`` is what was asked, ``result`` what came of it; both JSON objects.

    ``fence`` grows with every claim; ``owner`` is the daemon's random instance id, empty when nobody
    runs it; ``percent`` never falls.
    """

    id: str
    project_id: str
    kind: JobKind
    state: JobState
    spec: Mapping[str, Any]
    created_at: datetime
    image_id: str = ""
    upload_id: str = ""
    parent_job_id: str = ""
    phase: str = "queued"
    bytes_done: int = 0
    bytes_total: int = 0
    percent: float = 0.0
    result: Mapping[str, Any] = field(default_factory=dict)
    error_reason: str = ""
    error_message: str = ""
    error_hint: str = ""
    owner: str = ""
    fence: int = 0
    lease_until: datetime | None = None
    attempt: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadRecord:
    """One upload. ``disk_format`` empty: not known yet. ``is_direct``: stored as chunks while it arrives.
    ``is_fast``: for a fast import. ``image_id``: of an encrypted one, what its image will be; else empty.

    ``fence`` grows when a writer takes over. ``tree_state`` is the tree hasher at ``committed_offset``
    (and the ingest's, when direct). ``job_id``: the job that consumes it, or empty.
    """

    id: str
    project_id: str
    state: UploadState
    store: str
    created_at: datetime
    expires_at: datetime
    file_name: str = ""
    size_bytes: int = 0
    disk_format: str = ""
    expected_sha256: str = ""
    fingerprint: str = ""
    committed_offset: int = 0
    is_direct: bool | None = None
    is_fast: bool = False
    fence: int = 0
    staged_bytes: int = 0
    tree_state: bytes = b""
    digest: str = ""
    job_id: str = ""
    image_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRecord:
    """A part of an upload: ``length`` bytes of the file from ``start``.

    ``stored_bytes``: what it takes of the quota; the bytes of its blob, or of a SEGMENT those of the chunks
    that it tells of and that were new.

    Numbers grow with the file; two writers never use the same one.
    """

    upload_id: str
    number: int
    kind: PartKind
    start: int
    length: int
    stored_bytes: int
