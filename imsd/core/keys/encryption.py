"""What is encrypted, and where it goes: ciphers of images and uploads, and targets of what they store."""

from __future__ import annotations

from imsd.chunks.cipher import ChunkCipher
from imsd.chunks.index import Holder
from imsd.chunks.pack_writer import IngestTarget
from imsd.contract import FailedPrecondition, InvalidRequest
from imsd.core.runtime import Runtime
from imsd.metadata.records import ImageKind, ImageRecord, ServerKind, UploadRecord

ISO = ImageKind.ISO.value


COPY_PLAIN = "copy it without a key, and use the copy"


async def cipher_of_image(runtime: Runtime, image: ImageRecord) -> ChunkCipher | None:
    """None: it is not encrypted. Raises as `DataKeys.unwrapped`."""
    return await runtime.data_keys.cipher(image.id) if image.key_id else None


async def cipher_of_upload(runtime: Runtime, upload: UploadRecord) -> ChunkCipher | None:
    """As `cipher_of_image`, of the image that the upload will be."""
    return await runtime.data_keys.cipher(upload.image_id) if upload.image_id else None


async def require_readable(runtime: Runtime, image: ImageRecord) -> None:
    """The bytes of an image can be read, as far as its key decides. Raises as `DataKeys.unwrapped`."""
    if image.key_id:
        await runtime.data_keys.unwrapped(image.id)


def require_unencrypted(image: ImageRecord, what: str, hint: str, field: str = "image_id") -> None:
    """``what``: what is not done with an encrypted image.

    The seed's Tables 5-3, 5-5 and 5-6. Raises FailedPrecondition (ENCRYPTED_IMAGE_UNSUITED, IMG.0098).
    """
    if image.key_id:
        raise FailedPrecondition(
            f"image {image.name!r} is encrypted, and cannot be {what}",
            reason="ENCRYPTED_IMAGE_UNSUITED",
            field=field,
            hint=hint,
        )


def ingest_target(
    runtime: Runtime, store_name: str, project_id: str, holder: Holder, cipher: ChunkCipher | None
) -> IngestTarget:
    """Chunks of an encrypted image are among themselves; all others share those of their project."""
    domain = cipher.domain if cipher else project_id
    store = runtime.stores.get(store_name)
    return IngestTarget(store, store_name, runtime.index, domain, holder, cipher)


def state_label(upload_id: str) -> str:
    """What the state of an encrypted upload is sealed with: it may hold bytes of the file."""
    return f"state of upload {upload_id}"


def require_encryptable(*, is_fast: bool, kind: str, disk_format: str, server_kind: str = "") -> None:
    """What is to be encrypted, as far as the request says it.

    The seed's Table 5-2 (ISO), contract §3.4 (fast import) and §10.7 (bare metal). Raises InvalidRequest
    (FAST_IMPORT_UNSUITED, IMAGE_KIND_UNSUITED, ENCRYPTION_UNSUITED).
    """
    if is_fast:
        raise InvalidRequest(
            "a fast import keeps the file as it is, and cannot be encrypted",
            reason="FAST_IMPORT_UNSUITED",
            field="key",
            hint="import it the ordinary way, or without a key",
        )
    if ISO in (kind, disk_format):
        raise InvalidRequest(DISC, reason="IMAGE_KIND_UNSUITED", field="key", hint=WITHOUT)
    if server_kind == ServerKind.BARE_METAL:
        raise InvalidRequest(
            "images for bare metal servers cannot be encrypted",
            reason="ENCRYPTION_UNSUITED",
            field="key",
            hint=WITHOUT,
        )


DISC = "an installation disc cannot be encrypted"
WITHOUT = "import it without a key"


def require_no_disc(format_name: str, *, is_encrypted: bool) -> None:
    """What the file proves to be. Raises FailedPrecondition (IMAGE_KIND_UNSUITED)."""
    if is_encrypted and format_name == ISO:
        raise FailedPrecondition(DISC, reason="IMAGE_KIND_UNSUITED", hint=WITHOUT)
