"""Messages written and read by hand are those that protobuf writes and reads."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from imsd import wire
from imsd.v1.image_pb2 import DownloadImageResponse
from imsd.v1.upload_pb2 import WriteUploadRequest

read_upload = wire.reader_of(WriteUploadRequest)
read_download = wire.reader_of(DownloadImageResponse)


@given(st.lists(st.binary(max_size=300)), st.integers(0, 2**31))
def test_what_is_written_is_what_protobuf_reads(pieces: list[bytes], decoded_length: int) -> None:
    message = wire.FileBytes([memoryview(piece) for piece in pieces], decoded_length)
    serialized = wire.serialize(message)
    assert message.ByteSize() == len(serialized)
    read = DownloadImageResponse.FromString(serialized)
    assert read.WhichOneof("step") == "data"
    assert (read.data, read.decoded_length) == (b"".join(pieces), decoded_length)


@pytest.mark.parametrize("length", [0, 1, 127, 128, 16_383, 16_384, 1 << 20, 3 << 20])
def test_what_protobuf_writes_is_read_without_it(length: int) -> None:
    content = b"x" * length
    read = read_upload(WriteUploadRequest(data=content).SerializeToString())
    assert isinstance(read, wire.ReceivedBytes)
    assert (bytes(read.content), read.decoded_length) == (content, 0)
    framed = read_download(wire.serialize(wire.FileBytes([content], 5)))
    assert isinstance(framed, wire.ReceivedBytes)
    assert (bytes(framed.content), framed.decoded_length) == (content, 5)


def test_other_messages_are_protobufs_own() -> None:
    for message in (
        WriteUploadRequest(zero_length=7),
        WriteUploadRequest(header=WriteUploadRequest.Header(upload_id="x")),
        WriteUploadRequest(flush=WriteUploadRequest.Flush()),
        WriteUploadRequest(),
    ):
        assert read_upload(wire.serialize(message)) == message
    assert read_download(b"\x28\x05") == DownloadImageResponse(decoded_length=5)
    # In the order of the numbers, as protobuf writes it.
    both = DownloadImageResponse(data=b"abc", decoded_length=9)
    assert read_download(both.SerializeToString()) == both


def test_an_upload_knows_no_frames() -> None:
    """A field that a message does not have is skipped, as protobuf does."""
    read = read_upload(wire.serialize(wire.FileBytes([b"abc"], 9)))
    assert isinstance(read, WriteUploadRequest)
    assert read.data == b"abc"


@given(
    st.one_of(
        st.binary(max_size=40),
        st.binary(max_size=12).map(lambda rest: b"\x12" + rest),
        st.tuples(st.integers(0, 2**40), st.binary(max_size=9)).map(
            lambda given_: b"\x28" + varint(given_[0]) + b"\x12" + given_[1]
        ),
    )
)
def test_any_bytes_are_read_as_protobuf_reads_them(serialized: bytes) -> None:
    for kind, read in ((WriteUploadRequest, read_upload), (DownloadImageResponse, read_download)):
        try:
            expected = kind.FromString(serialized)
        except DecodeError:
            with pytest.raises(DecodeError):
                read(serialized)
            continue
        found = read(serialized)
        if not isinstance(found, wire.ReceivedBytes):
            assert found == expected
            continue
        assert expected.WhichOneof("step") == "data"
        assert found.content == expected.data
        assert found.decoded_length == getattr(expected, "decoded_length", 0)


def varint(number: int) -> bytes:
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])
