"""Uploading a file, from finding an interrupted upload of it to the commit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from blake3 import blake3

from imsd.v1 import image_pb2
from imsd.v1 import upload_pb2 as pb

from .backoff import patiently
from .client import ImsClient
from .errors import nothing_to_send
from .upload import ByteHasher, UploadSender
from .upload_source import MARK_DIGITS, FileSource, UploadSource


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadOptions:
    """What `CreateUploadRequest` says beyond what the file itself does.

    With a ``request_id`` the upload that an earlier call with the same id opened is taken again.

    ``new_hasher`` makes a tree hasher (``imsd.chunks.tree_digest.TreeHasher``); with it the client
    vouches for the digest of every byte that it sends. ``may_hand_over``: a daemon on the same machine may
    read the file itself. ``is_fast``: for an image that asks for fast import too. ``delta``: whether a
    file is compared with what the project has before it is sent, for who can do that; None: if it seems
    worth it. ``store``: the configured name of a store, empty for the default one.
    ``key``: the id or name of a key under which file and image are encrypted in the store, empty for none.
    """

    request_id: str = ""
    disk_format: image_pb2.DiskFormat.ValueType = image_pb2.DISK_FORMAT_UNSPECIFIED
    expected_sha256: str = ""
    new_hasher: Callable[[], ByteHasher] | None = None
    may_hand_over: bool = True
    is_fast: bool = False
    delta: bool | None = None
    store: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class OpenedUpload:
    """``is_resumed``: bytes of an earlier attempt are already there."""

    upload: pb.Upload
    is_resumed: bool

    @property
    def is_committed(self) -> bool:
        """All bytes arrived earlier: there is nothing to send."""
        return self.upload.state == pb.UPLOAD_STATE_COMMITTED

    @property
    def is_gone(self) -> bool:
        """The request id was used for an upload that ended: there is nothing to send it to."""
        return self.upload.state == pb.UPLOAD_STATE_GONE


async def open_upload(
    client: ImsClient, source: UploadSource, options: UploadOptions, *, may_resume: bool = True
) -> OpenedUpload:
    """An interrupted upload of the same unchanged file, else a new one.

    Raises `CallFailed`, and `ClientError` (IMAGE_EMPTY) before anything is opened for an empty file.
    """
    if isinstance(source, FileSource) and not source.size_bytes:
        raise nothing_to_send(source.name)
    fingerprint = _fingerprint(source, options)
    if fingerprint and may_resume and not options.request_id:
        async for upload in client.uploads.list(fingerprint=fingerprint):
            if _fits(upload, source, options):
                return OpenedUpload(upload, is_resumed=True)
    request = pb.CreateUploadRequest(
        request_id=options.request_id,
        size_bytes=source.size_bytes,
        file_name=source.name[:255],
        disk_format=options.disk_format,
        expected_sha256=options.expected_sha256,
        fingerprint=fingerprint,
        is_fast=options.is_fast,
        store=options.store,
        key=options.key,
    )
    upload = await client.uploads.create(request)
    return OpenedUpload(upload, is_resumed=upload.committed_offset > 0)


async def send_upload(
    client: ImsClient,
    upload: pb.Upload,
    source: UploadSource,
    options: UploadOptions,
    on_progress: Callable[[int], None] = lambda offset: None,
) -> pb.Upload:
    """Send what is missing of ``upload`` and commit it.

    Raises `CallFailed`, `LocalFileFailed`, `ClientError` (IMAGE_EMPTY). Cancelled or failed, the upload
    stays open: it can be resumed until it expires.
    """
    sender = UploadSender(
        client.uploads, source, on_progress, options.new_hasher, may_hand_over=options.may_hand_over
    )
    sent = await sender.send(upload)
    if not sent.size_bytes:
        raise nothing_to_send(source.name)
    return await patiently(
        lambda: client.uploads.commit(upload.id, sent.size_bytes, sent.digest), client.backoff()
    )


def mark_of_file(upload: pb.Upload) -> str:
    """The mark of the file that ``upload`` was begun with, see `FileSource.mark`; empty if it has none."""
    return upload.fingerprint[:MARK_DIGITS]


def _fingerprint(source: UploadSource, options: UploadOptions) -> str:
    """The mark of the file, and of the key: what is encrypted under one is no part of what is to be under
    another, and the daemon does not tell which it was."""
    if not source.fingerprint or not options.key:
        return source.fingerprint
    return source.fingerprint + blake3(options.key.encode()).hexdigest()[:32]


def _fits(upload: pb.Upload, source: UploadSource, options: UploadOptions) -> bool:
    """Whether going on with ``upload`` gives what a new upload with ``options`` would."""
    undeclared = image_pb2.DISK_FORMAT_UNSPECIFIED
    return (
        upload.size_bytes == source.size_bytes
        and upload.expected_sha256 == options.expected_sha256
        and upload.is_fast == options.is_fast
        and upload.is_encrypted == bool(options.key)
        and options.store in ("", upload.store)
        and options.disk_format in (undeclared, upload.disk_format)
    )
