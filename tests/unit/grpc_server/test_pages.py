"""Pages end where a message is full, and the next one begins right there."""

from imsd.grpc_server.pages import MAX_PAGE_BYTES, fitting, page_that_fits
from imsd.v1 import image_pb2


def test_as_many_entries_as_fit() -> None:
    assert fitting([MAX_PAGE_BYTES // 4] * 10) == 4
    assert fitting([1] * 1000) == 1000


def test_an_entry_that_fills_the_page_goes_alone() -> None:
    assert fitting([MAX_PAGE_BYTES + 1, 1]) == 1


async def test_large_entries_make_shorter_pages() -> None:
    asked = []

    async def page(size: int) -> image_pb2.ListImagesResponse:
        asked.append(size)
        large = image_pb2.Image(description="x" * 50_000)
        return image_pb2.ListImagesResponse(images=[large] * size, next_page_token=str(size))

    made = await page_that_fits(page, lambda made: made.images, 90)
    assert MAX_PAGE_BYTES * 0.9 < made.ByteSize() <= MAX_PAGE_BYTES * 1.01
    assert made.next_page_token == str(len(made.images))
    assert asked == [90, len(made.images)]


async def test_a_page_that_fits_is_asked_for_once() -> None:
    asked = []

    async def page(size: int) -> image_pb2.ListImagesResponse:
        asked.append(size)
        return image_pb2.ListImagesResponse(images=[image_pb2.Image(name="a")] * 3)

    made = await page_that_fits(page, lambda made: made.images, 0)
    assert len(made.images) == 3
    assert asked == [0]
