"""Fast import: which files, and where their bytes go (contract §3.4 and §10.2; Table 5-2, row "Image size").

A RAW file or a ZVHD2 file is kept as it comes: no conversion, no cutting by content, no look at the system on
the disk. (Pieces of a RAW file are compressed, which costs little.) Every record is decoded once all the
same, so that nothing is stored that cannot be read back, and the digest of the disk is what it is by any
other way. Signatures are looked at as ever. The hosted service wants a map of the blocks in use (``.mf``)
beside a RAW file; here zeros are found by looking, and no such file is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from imsd.contract import FailedPrecondition, ImageRefused, InvalidRequest
from imsd.metadata.records import ImageKind

from .decoded_sink import RecordSink, is_decoded
from .direct_sink import PlainSink
from .runtime import Runtime
from .staged_sink import StagedSink
from .upload_progress import UploadProgress
from .upload_sink import UploadSink

RAW: Final = "raw"
ZVHD2: Final = "zvhd2"
FORMATS: Final[Sequence[str]] = (RAW, ZVHD2)

_HINT: Final = "convert it to one of them, or import it the ordinary way"


def check_declared(disk_format: str, kind: str = "", os_version: str | None = None) -> None:
    """What a request says of a fast import. ``os_version`` None: it says nothing of the image.

    Raises InvalidRequest (FAST_IMPORT_UNSUITED, IMG.0158; OS_VERSION_REQUIRED, IMG.0159).
    """
    if disk_format and disk_format not in FORMATS:
        raise InvalidRequest(
            f"a file in the format {disk_format} cannot be imported fast, only {' and '.join(FORMATS)} can",
            reason="FAST_IMPORT_UNSUITED",
            field="disk_format",
            hint=_HINT,
        )
    if kind == ImageKind.ISO:
        raise InvalidRequest(
            "an ISO cannot be imported fast",
            reason="FAST_IMPORT_UNSUITED",
            field="kind",
            hint="import it the ordinary way",
        )
    if os_version == "" and kind != ImageKind.DATA_DISK:
        raise InvalidRequest(
            "nobody looks at the system on the disk: the request must say which one it is",
            reason="OS_VERSION_REQUIRED",
            field="os_version",
            hint="give os_version, or the kind data_disk; `imsctl os-version list` shows the names",
        )


def check_same_way(*, is_fast: bool, upload_is_fast: bool) -> None:
    """An upload is stored while it comes, in one way or the other. Raises FailedPrecondition."""
    if is_fast != upload_is_fast:
        way, other = ("fast", "ordinary") if upload_is_fast else ("ordinary", "fast")
        raise FailedPrecondition(
            f"the upload was opened for {way} import",
            field="is_fast",
            hint=f"ask for {way} import, or send the file again for {other} import",
        )


def require_suited(format_name: str) -> None:
    """What the file is in the end. Raises ImageRefused (FAST_IMPORT_UNSUITED)."""
    if format_name not in FORMATS:
        raise ImageRefused(
            f"the file is {format_name}, and only {' and '.join(FORMATS)} can be imported fast",
            reason="FAST_IMPORT_UNSUITED",
            hint=_HINT,
        )


async def begin_sink(runtime: Runtime, progress: UploadProgress, found: str) -> UploadSink:
    """Where the bytes of an upload go whose first ones are those of the format ``found``.

    Raises ImageRefused (FAST_IMPORT_UNSUITED).
    """
    require_suited(found)
    if found == RAW:
        return await PlainSink.open(runtime, progress)
    if progress.record.expected_sha256:  # of the file, which its job reads again
        return await StagedSink.open(runtime, progress)
    return await RecordSink.begin(runtime, progress, found)


async def open_sink(runtime: Runtime, progress: UploadProgress) -> UploadSink:
    """Go on where the durable state of an upload ends that was stored while it came."""
    sink_type = RecordSink if is_decoded(progress.record.tree_state) else PlainSink
    return await sink_type.open(runtime, progress)
