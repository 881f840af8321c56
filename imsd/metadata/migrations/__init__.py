"""Alembic, run by the program itself on a connection it already has; there is no alembic.ini.

Import this package only to migrate: it brings Alembic with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from imsd.metadata.tables import metadata

HERE = Path(__file__).parent


def configuration(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(HERE).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def migrate(connection: Connection, revision: str) -> None:
    """Upgrade to ``revision`` inside the transaction of ``connection``."""
    command.upgrade(configuration(connection), revision)


def go_back(connection: Connection, revision: str) -> None:
    """Downgrade to ``revision``, or ``base`` for an empty database. What newer tables held is lost."""
    command.downgrade(configuration(connection), revision)


def differences(connection: Connection) -> list[Any]:
    """What a new migration would have to do, to bring this database to `imsd.metadata.tables`."""
    return list(compare_metadata(MigrationContext.configure(connection), metadata))


def write_revision(connection: Connection, message: str, revision: str) -> None:
    """Write ``versions/<revision>_<message>.py`` with what `differences` sees, to be read and edited."""
    command.revision(configuration(connection), message, autogenerate=True, rev_id=revision)
