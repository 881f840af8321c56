"""`imsctl image import`: upload, commit, make the image, wait: one command, resumable at any point."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import suppress

from ims_client import (
    CallFailed,
    ClientError,
    ImsClient,
    JobFailed,
    OpenedUpload,
    UploadOptions,
    UploadSource,
    open_source,
    open_upload,
    patiently,
    send_upload,
)

from imsd.v1 import image_pb2, job_pb2, upload_pb2

from . import wording
from .file_argument import require_no_object
from .image_delta import delta_file, find_known, require_comparable
from .image_output import print_image, print_images
from .image_request import ImageRequest, of_upload, start_job, usual_request_id
from .import_options import UPLOAD_SUFFIX, ImportOptions
from .job_output import print_job
from .job_watch import watch_own_job
from .outage_notes import OutageNotes
from .progress import ProgressView, TransferMeter
from .session import Interrupted, Session

# Cleaning up after an interruption must not keep the user waiting.
ABORT_SECONDS = 5.0

# Refusals whose hint says what to do about the daemon, not how to go on with what was sent.
NO_ROOM = ("CAPACITY_EXHAUSTED", "QUOTA_EXCEEDED")

# CreateImage's answers that mean: the committed upload found is in use or gone, so send the file anew.
NOT_REUSABLE = ("FAILED_PRECONDITION", "REQUEST_ID_REUSED", "NOT_FOUND", "UPLOAD_EXPIRED")


# Answers to a request that is only validated which the bytes of the file will not make better.
REFUSED_FOR_GOOD = ("INVALID_ARGUMENT", "PERMISSION_DENIED")


async def import_image(session: Session, file: str, options: ImportOptions) -> None:
    """Make an image of ``file``, a path or ``-``."""
    request, upload_options = options.image_request(), options.options_of_upload()
    request.request_id = options.request_id
    async with session.connect() as client:
        await send_file(session, client, file, request, upload_options, detach=options.detach)


async def send_file(
    session: Session,
    client: ImsClient,
    file: str,
    request: ImageRequest,
    options: UploadOptions,
    *,
    detach: bool,
) -> None:
    """Send ``file``, do with it what ``request`` asks, and print the images; ``detach``: print the job."""
    require_no_object(file)
    with open_source(file) as source, session.progress() as view:
        work = _Import(client, source, file, options, view)
        job = await work.start(request)
        if detach:
            print_job(session, job)
            return
        job = await work.watch(job)
    await print_images_of(session, client, job, request.request_id)


async def print_images_of(session: Session, client: ImsClient, job: job_pb2.Job, request_id: str) -> None:
    """Print what ``job``, of this or of an earlier command with the same ``request_id``, made."""
    images = [await _image_of(client, image_id, request_id) for image_id in job.image_ids]
    if job.sub_job_ids:
        print_images(session, images)
    else:
        print_image(session, images[0])


async def _image_of(client: ImsClient, image_id: str, request_id: str) -> image_pb2.Image:
    try:
        return await patiently(lambda: client.images.get(image_id), client.backoff())
    except CallFailed as error:
        if error.reason != "NOT_FOUND":
            raise
        hint = "use a new request id for a new image" if request_id else "import it again"
        raise ClientError(
            "NOT_FOUND", f"image {image_id} was made, and was deleted meanwhile", hint
        ) from None


class _Import:
    """The way of one file to the job that makes an image of it."""

    def __init__(
        self,
        client: ImsClient,
        source: UploadSource,
        file: str,
        options: UploadOptions,
        view: ProgressView,
    ) -> None:
        self._client = client
        self._source = source
        self._file = file
        self._options = options
        self._view = view
        self._row = OutageNotes(client, view)

    async def start(self, request: ImageRequest) -> job_pb2.Job:
        """Send the file, or what an earlier attempt left to send, and start the job."""
        require_comparable(self._source, self._options)
        opened = await self._open(may_resume=True)
        if opened.is_gone:
            return await self._earlier_job(request, opened.upload)
        if opened.is_resumed and opened.is_committed:
            with suppress(_NotReusable):
                job = await self._create_from_committed(request, opened.upload)
                self._view.note(f"using upload {opened.upload.id}: the file was already sent")
                return job
            opened = await self._open(may_resume=False)
        await self._check_early(request, opened)
        upload = await self._send(opened)
        return await self._create(request, upload)

    async def watch(self, job: job_pb2.Job) -> job_pb2.Job:
        """Wait until the image is made."""
        try:
            row = OutageNotes(self._client, self._view)
            return await watch_own_job(self._client, job.id, row, self._view)
        except JobFailed as failed:
            if failed.reason in NO_ROOM and failed.job.upload_ids:
                failed.hint = _joined(failed.hint, self._what_a_failed_job_left(failed.job.upload_ids[0]))
            raise

    def _what_a_failed_job_left(self, upload_id: str) -> str:
        # With a request id a repeat gets the same answer; without a fingerprint it finds nothing.
        if self._options.request_id or not self._source.fingerprint:
            return _discard_with(upload_id)
        return f"repeat the command to go on, or {_discard_with(upload_id)}"

    async def _open(self, *, may_resume: bool) -> OpenedUpload:
        try:
            return await open_upload(self._client, self._source, self._options, may_resume=may_resume)
        except CallFailed as error:
            if error.reason == "REQUEST_ID_REUSED":  # told with the id that the user gave
                raise ClientError(
                    error.reason, f"request id {self._used_id!r} was used for a different import", error.hint
                ) from None
            raise

    async def _earlier_job(self, request: ImageRequest, upload: upload_pb2.Upload) -> job_pb2.Job:
        """The job that the first import with this request id started."""
        asked = of_upload(request, upload.id, request.request_id)
        ended = ClientError(
            "ALREADY_EXISTS",
            f"request id {self._used_id!r} was used for an import that has ended without an image",
            "look at the images and jobs there are; use a new request id for a new image",
        )
        try:
            job = await self._ask(asked)
        except CallFailed as error:
            if error.reason == "NOT_FOUND":
                raise ended from None
            raise
        if job.state == job_pb2.JOB_STATE_CANCELLED:
            raise ended
        return job

    @property
    def _used_id(self) -> str:
        return self._options.request_id.removesuffix(UPLOAD_SUFFIX)

    async def _check_early(self, request: ImageRequest, opened: OpenedUpload) -> None:
        """Learn of a wrong name or tag before the file is sent rather than after."""
        asked = of_upload(request, opened.upload.id, "")
        asked.validate_only = True
        try:
            await start_job(self._client, asked)
        except CallFailed as error:
            if error.code not in REFUSED_FOR_GOOD and error.field != "image_id":
                return  # all else may be otherwise when the file is there, and is told again then
            if not opened.is_resumed:
                with suppress(CallFailed):
                    await self._client.uploads.delete(opened.upload.id)
            raise

    async def _send(self, opened: OpenedUpload) -> upload_pb2.Upload:
        upload = opened.upload
        begin = upload.committed_offset
        if opened.is_resumed and begin:
            total = f" of {wording.size(upload.size_bytes)}" if upload.size_bytes else ""
            self._view.note(f"resuming upload {upload.id} at {wording.size(begin)}{total}")
        meter = TransferMeter("upload", self._source.size_bytes, begin)

        def advance(offset: int) -> None:
            self._row.show(meter.at(offset))

        try:
            source = await self._without_known(upload)
            return await send_upload(self._client, upload, source, self._options, advance)
        except asyncio.CancelledError:
            raise Interrupted(*await self._leave(upload)) from None
        except ClientError as error:
            await self._say_how_to_go_on(error, upload)
            raise

    async def _without_known(self, upload: upload_pb2.Upload) -> UploadSource:
        """What is to be sent: the file, but for what images of the project hold if that was looked for."""
        file = delta_file(self._client, self._source, upload, self._options)
        if file is None:
            return self._source
        meter = TransferMeter("compare", file.size_bytes)
        source = await find_known(self._client, upload, file, lambda offset: self._row.show(meter.at(offset)))
        if source.known_bytes:
            known = wording.size(source.known_bytes)
            self._view.note(f"{known} of the file are in images of the project, and are not sent")
        return source

    async def _say_how_to_go_on(self, error: ClientError, upload: upload_pb2.Upload) -> None:
        """Complete the hint of a failure while the file was sent; nothing is kept of a stream."""
        if self._is_stream:
            await self._discard(upload)
        elif not error.hint or _is_passing(error):
            error.hint = _joined(error.hint, self._how_to_go_on(upload))

    async def _leave(self, upload: upload_pb2.Upload) -> tuple[str, str]:
        """What to say of an interruption: how to go on, or that nothing is kept."""
        if self._is_stream:
            await self._discard(upload)
            return "interrupted: a stream cannot be resumed, what was sent is discarded", ""
        kept = "the upload is kept"
        with suppress(CallFailed, TimeoutError):
            now = await asyncio.wait_for(self._client.uploads.get(upload.id), ABORT_SECONDS)
            kept = wording.kept(now.committed_offset, now.staged_bytes)
        return f"interrupted: {kept}", self._how_to_go_on(upload)

    @property
    def _is_stream(self) -> bool:
        return not self._source.size_bytes

    def _how_to_go_on(self, upload: upload_pb2.Upload) -> str:
        again = "repeat the command to go on"
        if not self._source.fingerprint:  # nothing to find the upload by
            again = f"go on with `imsctl upload resume {upload.id} {self._file}`"
        return f"{again}, or {_discard_with(upload.id)}"

    async def _discard(self, upload: upload_pb2.Upload) -> None:
        with suppress(CallFailed, TimeoutError):
            await asyncio.wait_for(self._client.uploads.delete(upload.id), ABORT_SECONDS)

    async def _create_from_committed(self, request: ImageRequest, upload: upload_pb2.Upload) -> job_pb2.Job:
        try:
            job = await self._create(request, upload)
            if job.state == job_pb2.JOB_STATE_FAIL and not request.request_id:
                # That of an earlier attempt, which left the upload as it was.
                request.request_id = f"imsctl-{uuid.uuid4()}"
                job = await self._create(request, upload)
            return job
        except CallFailed as error:
            if error.reason in NOT_REUSABLE and not self._options.request_id:
                raise _NotReusable from None
            raise

    async def _ask(self, request: ImageRequest) -> job_pb2.Job:
        return await patiently(lambda: start_job(self._client, request), self._client.backoff())

    async def _create(self, request: ImageRequest, upload: upload_pb2.Upload) -> job_pb2.Job:
        request_id = request.request_id or usual_request_id(request, upload.id)
        asked = of_upload(request, upload.id, request_id)
        try:
            return await self._ask(asked)
        except CallFailed as error:
            if not error.field and not self._is_stream and (not error.hint or _is_passing(error)):
                error.hint = _joined(error.hint, f"the file is sent: {self._how_to_go_on(upload)}")
            raise


def _is_passing(error: ClientError) -> bool:
    """Whether the same command may succeed later, going on with what was sent."""
    return error.reason in NO_ROOM or (isinstance(error, CallFailed) and error.is_transient)


def _discard_with(upload_id: str) -> str:
    return f"discard what was sent with `imsctl upload abort {upload_id}`"


def _joined(*hints: str) -> str:
    return "; ".join(filter(None, hints))


class _NotReusable(Exception):
    """A committed upload of the same file serves another image."""
