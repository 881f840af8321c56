"""Tags between records and messages."""

from __future__ import annotations

from imsd.core import checks
from imsd.core.tag_filter import LISTS, tag_query
from imsd.metadata.image_query import ImageQuery
from imsd.metadata.records import ImageRecord
from imsd.metadata.tags import TaggedImage, TagQuery
from imsd.v1 import image_pb2
from imsd.v1 import tag_pb2 as pb

from .convert_image_query import image_query_from_pb


def image_tags_to_pb(record: ImageRecord) -> pb.ImageTags:
    return pb.ImageTags(image_id=record.id, tags=tags_to_pb(record), etag=str(record.version))


def tags_to_pb(record: ImageRecord | TaggedImage) -> list[pb.Tag]:
    return [pb.Tag(key=key, value=value) for key, value in sorted(record.tags.items())]


def tagged_image_to_pb(record: TaggedImage) -> pb.TaggedImage:
    return pb.TaggedImage(
        image_id=record.id,
        name=record.name,
        status=image_pb2.ImageStatus.Value(f"IMAGE_STATUS_{record.status.name}"),
        tags=tags_to_pb(record),
    )


def tag_query_from_pb(project_id: str, wanted: pb.TagFilter) -> TagQuery:
    """Raises InvalidRequest."""
    return tag_query(
        project_id,
        {field: [(each.key, each.values) for each in getattr(wanted, field)] for field in LISTS},
        [(match.key, match.value) for match in wanted.matches],
        is_untagged=wanted.is_untagged,
    )


def tag_list_query_from_pb(request: pb.ListTagsRequest) -> ImageQuery:
    """Raises InvalidRequest, also for what would choose among other images than those of the project."""
    if request.filter.scope not in (image_pb2.ImageFilter.SCOPE_UNSPECIFIED, image_pb2.ImageFilter.SCOPE_OWN):
        checks.refuse("filter.scope", "only tags of images of the project are listed", "leave the scope out")
    for field in ("member_statuses", "server_type"):
        if getattr(request.filter, field):
            checks.refuse(f"filter.{field}", f"tags are not listed by {field}", "leave it out")
    return image_query_from_pb(
        image_pb2.ListImagesRequest(project_id=request.project_id, filter=request.filter)
    )
