"""Stores as JSON."""

from __future__ import annotations

from imsd.v1 import driver_pb2, store_pb2

from .json_fields import Fields, enum_text


def store_fields(store: store_pb2.Store) -> Fields:
    return {
        "name": store.name,
        "driver": store.driver,
        "state": enum_text(driver_pb2.DriverState, store.state),
        "detail": store.detail,
        "default": store.is_default,
        "capabilities": list(store.capabilities),
        "used_bytes": store.used_bytes,
        "free_bytes": store.free_bytes,
        "image_count": store.image_count,
        "stored_bytes": store.stored_bytes,
    }


def store_usage_fields(usage: store_pb2.StoreUsage) -> Fields:
    return {
        "store": usage.store,
        "image_count": usage.image_count,
        "pack_count": usage.pack_count,
        "pack_bytes": usage.pack_bytes,
        "condemned_pack_count": usage.condemned_pack_count,
        "condemned_bytes": usage.condemned_bytes,
        "writing_pack_count": usage.writing_pack_count,
        "manifest_count": usage.manifest_count,
        "upload_count": usage.upload_count,
        "staged_bytes": usage.staged_bytes,
        "projects": [
            {
                "project_id": each.project_id,
                "image_count": each.image_count,
                "stored_bytes": each.stored_bytes,
            }
            for each in usage.projects
        ],
        "project_count": usage.project_count,
    }
