"""The database itself refuses to change a trace or a seal, and to remove one that no seal covers.

A migration that makes one of these tables anew, as SQLite's `batch_alter_table` does, has to make its
triggers again.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# Of each table: what has to be sealed later, so that a row may go. The newest seal stays for ever.
COVER = {"trace": "sequence >= OLD.sequence", "trace_seal": "sequence > OLD.sequence"}


def upgrade() -> None:
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    for table, cover in COVER.items():
        covered = f"EXISTS (SELECT 1 FROM trace_seal WHERE project_id = OLD.project_id AND {cover})"
        for statement in (_on_sqlite if on_sqlite else _on_postgresql)(table, covered):
            op.execute(statement)


def downgrade() -> None:
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    for table in COVER:
        for event in ("update", "delete"):
            op.execute(f"DROP TRIGGER {table}_{event}" + ("" if on_sqlite else f" ON {table}"))
            if not on_sqlite:
                op.execute(f"DROP FUNCTION refuse_{table}_{event}")


def _on_sqlite(table: str, covered: str) -> list[str]:
    return [
        f"CREATE TRIGGER {table}_update BEFORE UPDATE ON {table}"
        f" BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END",
        f"CREATE TRIGGER {table}_delete BEFORE DELETE ON {table} WHEN NOT {covered}"
        f" BEGIN SELECT RAISE(ABORT, '{table} is removed up to a seal only'); END",
    ]


def _on_postgresql(table: str, covered: str) -> list[str]:
    changed = f"RAISE EXCEPTION '{table} is append-only';"
    removed = f"IF NOT {covered} THEN RAISE EXCEPTION '{table} is removed up to a seal only'; END IF;"
    made = []
    for event, body, result in (("update", changed, "NEW"), ("delete", removed, "OLD")):
        made += [
            f"CREATE FUNCTION refuse_{table}_{event}() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN {body} RETURN {result}; END $$",
            f"CREATE TRIGGER {table}_{event} BEFORE {event.upper()} ON {table}"
            f" FOR EACH ROW EXECUTE FUNCTION refuse_{table}_{event}()",
        ]
    return made
