"""What is the daemon's own, kept apart from what its users reach.

Whoever may use a bucket may name every file in its directory. With the database, a key or a store in there,
each project could read what is the others'; and a bucket inside a store would lie among the blobs of images.
Two stores at one place would be counted, searched and scrubbed twice.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import make_url

from imsd.contract import InvalidRequest

from .config import Config
from .core.bucket_sections import ConfiguredBucket
from .core.keys.key_sections import ConfiguredKeyService
from .core.places import lies_in
from .core.store_sections import ConfiguredStore


def own_places(
    config: Config, stores: Sequence[ConfiguredStore], key_services: Sequence[ConfiguredKeyService] = ()
) -> Sequence[tuple[str, Path]]:
    """Directories and files of the daemon, each with what it is. Blocks."""
    places = [("the state directory", config.state_dir)]
    places += [(f"the store {store.name!r}", path) for store in stores for path in store.directories()]
    for each in key_services:
        places += [(f"a file of the key service {each.name!r}", path) for path in each.files()]
    places += [(f"the key of the store {store.name!r}", path) for store in stores for path in store.files()]
    database = make_url(config.database_url)
    if database.get_backend_name() == "sqlite" and database.database:
        places += [("the database", path) for path in _files_of_sqlite(Path(database.database))]
    for name, path in (
        ("the cache of the block server", config.block_server.cache_dir),
        ("the configuration", config.file),
        ("the key of TLS", config.tls.key_file),
        ("the policies", config.policy_dir),
    ):
        if path is not None:
            places.append((name, path))
    return places


def closed_places(
    config: Config,
    stores: Sequence[ConfiguredStore],
    buckets: Sequence[ConfiguredBucket],
    key_services: Sequence[ConfiguredKeyService] = (),
) -> Sequence[Path]:
    """What no import reads by its path: the daemon's own, and buckets, which only their projects may read."""
    own = [place for _, place in own_places(config, stores, key_services)]
    of_buckets = [(*bucket.store.directories(), *bucket.store.files()) for bucket in buckets]
    return [*own, *(path for paths in of_buckets for path in paths)]


def require_apart(
    config: Config,
    stores: Sequence[ConfiguredStore],
    buckets: Sequence[ConfiguredBucket],
    key_services: Sequence[ConfiguredKeyService] = (),
) -> None:
    """Raises InvalidRequest (INVALID_CONFIGURATION) for a store or bucket that lies in another store, and for
    a bucket that holds what is the daemon's. Blocks.
    """
    for store in stores:
        _require_no_other(store, stores)
    own = [*own_places(config, stores, key_services)]
    for bucket in buckets:
        name = bucket.store.name
        own += [(f"the key of the bucket {name!r}", path) for path in bucket.store.files()]
    for bucket in buckets:
        _require_apart_elsewhere(bucket, stores)
        for directory in bucket.store.directories():
            for what, place in own:
                if lies_in(place, directory):
                    raise _invalid(bucket, f"holds {what}, {place}: its projects could read that")
            for store in stores:
                if any(lies_in(directory, place) for place in store.directories()):
                    raise _invalid(bucket, f"lies in the store {store.name!r}, among the blobs of images")


def _require_no_other(store: ConfiguredStore, stores: Sequence[ConfiguredStore]) -> None:
    """That no other store lies in ``store``."""
    for other in stores:
        is_inside = any(
            lies_in(inner, outer) for inner in other.directories() for outer in store.directories()
        ) or any(inner.startswith(outer) for inner in other.places() for outer in store.places())
        if other is not store and is_inside:
            raise InvalidRequest(
                f"the store {other.name!r} lies in the place of the store {store.name!r}",
                reason="INVALID_CONFIGURATION",
                field=other.section_name,
                hint="give each store a directory, or a bucket or prefix in its service, of its own",
            )


def _require_apart_elsewhere(bucket: ConfiguredBucket, stores: Sequence[ConfiguredStore]) -> None:
    """The same beyond this machine, as far as names tell."""
    for inner in bucket.store.places():
        for store in stores:
            for place in store.places():
                if place.startswith(inner):
                    raise _invalid(bucket, f"holds the store {store.name!r}: its projects could read that")
                if inner.startswith(place):
                    raise _invalid(bucket, f"lies in the store {store.name!r}, among the blobs of images")


def _files_of_sqlite(database: Path) -> Sequence[Path]:
    """With what SQLite keeps beside the file, where a link to it leads: that holds of its content too."""
    real = os.path.realpath(database)
    return [database, *(Path(f"{real}{suffix}") for suffix in ("-wal", "-shm", "-journal"))]


def _invalid(bucket: ConfiguredBucket, what: str) -> InvalidRequest:
    kind = "directory" if bucket.store.directories() else "place"
    return InvalidRequest(
        f"the {kind} of the bucket {bucket.store.name!r} {what}",
        reason="INVALID_CONFIGURATION",
        field=bucket.store.section_name,
        hint="give the bucket a directory of its own, or a bucket or prefix of its own in its service",
    )
