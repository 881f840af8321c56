"""Run by Alembic for every command; the connection comes from `imsd.metadata.migrations`."""

from typing import Any, Literal

from alembic import context

from imsd.metadata.tables import UtcDateTime, metadata


def render_item(kind: str, item: Any, _: object) -> str | Literal[False]:
    """Our own types by what they are in the database, so that a migration imports none of our code."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    return False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite cannot alter a table in place
    render_item=render_item,
)
# No transaction is begun here: all steps belong to the caller's.
context.run_migrations()
