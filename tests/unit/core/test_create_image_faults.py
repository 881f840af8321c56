import pytest

from imsd.contract import ImageRefused, ImsError, InvalidRequest, LimitExceeded, Unavailable
from imsd.core.workflows.create_image import is_hopeless


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ImageRefused("broken"), True),
        (ImageRefused("two formats", reason="FORMAT_AMBIGUOUS"), True),
        (ImageRefused("vmdk", reason="FORMAT_UNSUPPORTED"), True),
        (InvalidRequest("empty", reason="IMAGE_EMPTY"), True),
        (InvalidRequest("another file", reason="DIGEST_MISMATCH"), True),
        (ImageRefused("declared otherwise", reason="FORMAT_MISMATCH"), False),
        (InvalidRequest("no ISO", reason="IMAGE_KIND_UNSUITED"), False),
        (InvalidRequest("too small", reason="MIN_DISK_TOO_SMALL"), False),
        (LimitExceeded("full", reason="CAPACITY_EXHAUSTED"), False),
        (Unavailable("not now"), False),
        (ImsError("a defect"), False),
    ],
)
def test_only_faults_of_the_bytes_cost_the_upload(error: ImsError, expected: bool) -> None:
    assert is_hopeless(error) is expected
