"""The first schema; what bore the number 0001 was in no release."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_image()
    _create_job()
    _create_manifest()
    _create_pack()
    _create_service()
    _create_request()
    _create_upload()
    _create_chunk()
    _create_image_tag()
    _create_manifest_holder()
    _create_pack_reference()
    _create_upload_part()


def downgrade() -> None:
    op.drop_table("upload_part")
    op.drop_table("pack_reference")
    op.drop_table("manifest_holder")
    op.drop_table("image_tag")
    op.drop_table("chunk")
    op.drop_table("upload")
    op.drop_table("service")
    op.drop_table("request")
    op.drop_table("pack")
    op.drop_table("manifest")
    op.drop_table("job")
    op.drop_table("image")


def _create_image() -> None:
    op.create_table(
        "image",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("region", sa.String(length=64), nullable=False),
        sa.Column("origin_image_id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("disk_format", sa.String(length=16), nullable=False),
        sa.Column("virtual_size", sa.BigInteger(), nullable=False),
        sa.Column("data_size", sa.BigInteger(), nullable=False),
        sa.Column("stored_size", sa.BigInteger(), nullable=False),
        sa.Column("new_size", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(length=80), nullable=False),
        sa.Column("min_disk_gb", sa.Integer(), nullable=False),
        sa.Column("min_ram_mb", sa.Integer(), nullable=False),
        sa.Column("max_ram_mb", sa.Integer(), nullable=False),
        sa.Column("os_version", sa.String(length=255), nullable=False),
        sa.Column("is_protected", sa.Boolean(), nullable=False),
        sa.Column("properties", sa.JSON(), nullable=False),
        sa.Column("findings", sa.JSON(), nullable=False),
        sa.Column("store", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=36), nullable=False),
        sa.Column("manifest_id", sa.String(length=36), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("active_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_image"),
    )
    op.create_index("ix_image_project_id_created_at_id", "image", ["project_id", "created_at", "id"])
    op.create_index(
        "ix_image_project_id_name_created_at_id", "image", ["project_id", "name", "created_at", "id"]
    )
    op.create_index(
        "ix_image_project_id_status_created_at_id", "image", ["project_id", "status", "created_at", "id"]
    )
    op.create_index(
        "ix_image_project_id_disk_format_created_at_id",
        "image",
        ["project_id", "disk_format", "created_at", "id"],
    )
    op.create_index("ix_image_project_id_name_id", "image", ["project_id", "name", "id"])
    op.create_index("ix_image_project_id_status_id", "image", ["project_id", "status", "id"])
    op.create_index("ix_image_project_id_updated_at_id", "image", ["project_id", "updated_at", "id"])
    op.create_index("ix_image_project_id_virtual_size_id", "image", ["project_id", "virtual_size", "id"])


def _create_job() -> None:
    op.create_table(
        "job",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("phase", sa.String(length=32), nullable=False),
        sa.Column("bytes_done", sa.BigInteger(), nullable=False),
        sa.Column("bytes_total", sa.BigInteger(), nullable=False),
        sa.Column("percent", sa.Float(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.Column("error_reason", sa.String(length=64), nullable=False),
        sa.Column("error_message", sa.Text(), nullable=False),
        sa.Column("error_hint", sa.Text(), nullable=False),
        sa.Column("image_id", sa.String(length=36), nullable=False),
        sa.Column("upload_id", sa.String(length=36), nullable=False),
        sa.Column("parent_job_id", sa.String(length=36), nullable=False),
        sa.Column("owner", sa.String(length=36), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_job"),
    )
    op.create_index("ix_job_image_id", "job", ["image_id"])
    op.create_index("ix_job_parent_job_id", "job", ["parent_job_id"])
    op.create_index("ix_job_project_id_created_at_id", "job", ["project_id", "created_at", "id"])
    op.create_index("ix_job_state_created_at_id", "job", ["state", "created_at", "id"])


def _create_manifest() -> None:
    op.create_table(
        "manifest",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("store", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_manifest"),
    )
    op.create_index("ix_manifest_store_state_id", "manifest", ["store", "state", "id"])


def _create_pack() -> None:
    op.create_table(
        "pack",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("store", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_pack"),
    )
    op.create_index("ix_pack_store_state_id", "pack", ["store", "state", "id"])


def _create_service() -> None:
    op.create_table(
        "service",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_service"),
    )


def _create_request() -> None:
    op.create_table(
        "request",
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("resource_id", sa.String(length=36), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "request_id", name="pk_request"),
    )
    op.create_index("ix_request_created_at", "request", ["created_at"])


def _create_upload() -> None:
    op.create_table(
        "upload",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("store", sa.String(length=64), nullable=False),
        sa.Column("file_name", sa.String(length=255), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("disk_format", sa.String(length=16), nullable=False),
        sa.Column("expected_sha256", sa.String(length=64), nullable=False),
        sa.Column("fingerprint", sa.String(length=128), nullable=False),
        sa.Column("committed_offset", sa.BigInteger(), nullable=False),
        sa.Column("is_direct", sa.Boolean(), nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("staged_bytes", sa.BigInteger(), nullable=False),
        sa.Column("tree_state", sa.LargeBinary(), nullable=False),
        sa.Column("digest", sa.String(length=80), nullable=False),
        sa.Column("job_id", sa.String(length=36), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_upload"),
    )
    op.create_index("ix_upload_expires_at", "upload", ["expires_at"])
    op.create_index("ix_upload_project_id_created_at_id", "upload", ["project_id", "created_at", "id"])
    op.create_index(
        "ix_upload_project_id_fingerprint_created_at_id",
        "upload",
        ["project_id", "fingerprint", "created_at", "id"],
    )


def _create_chunk() -> None:
    op.create_table(
        "chunk",
        sa.Column("domain", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("pack_id", sa.String(length=32), nullable=False),
        sa.Column("pack_offset", sa.Integer(), nullable=False),
        sa.Column("stored_length", sa.Integer(), nullable=False),
        sa.Column("length", sa.Integer(), nullable=False),
        sa.Column("codec", sa.Integer(), nullable=False),
        sa.Column("stored_check", sa.LargeBinary(length=16), nullable=False),
        sa.Column("first_length", sa.Integer(), nullable=False),
        sa.Column("first_stored", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["pack_id"], ["pack.id"], name="fk_chunk_pack_id_pack"),
        sa.PrimaryKeyConstraint("domain", "digest", name="pk_chunk"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_chunk_pack_id", "chunk", ["pack_id"])


def _create_image_tag() -> None:
    op.create_table(
        "image_tag",
        sa.Column("image_id", sa.String(length=36), nullable=False),
        sa.Column("key", sa.String(length=36), nullable=False),
        sa.Column("value", sa.String(length=43), nullable=False),
        sa.ForeignKeyConstraint(
            ["image_id"], ["image.id"], name="fk_image_tag_image_id_image", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("image_id", "key", name="pk_image_tag"),
    )
    op.create_index("ix_image_tag_key_value_image_id", "image_tag", ["key", "value", "image_id"])


def _create_manifest_holder() -> None:
    op.create_table(
        "manifest_holder",
        sa.Column("manifest_id", sa.String(length=32), nullable=False),
        sa.Column("holder_kind", sa.String(length=16), nullable=False),
        sa.Column("holder_id", sa.String(length=36), nullable=False),
        sa.ForeignKeyConstraint(
            ["manifest_id"], ["manifest.id"], name="fk_manifest_holder_manifest_id_manifest"
        ),
        sa.PrimaryKeyConstraint("manifest_id", "holder_kind", "holder_id", name="pk_manifest_holder"),
    )
    op.create_index(
        "ix_manifest_holder_holder_kind_holder_id", "manifest_holder", ["holder_kind", "holder_id"]
    )


def _create_pack_reference() -> None:
    op.create_table(
        "pack_reference",
        sa.Column("pack_id", sa.String(length=32), nullable=False),
        sa.Column("holder_kind", sa.String(length=16), nullable=False),
        sa.Column("holder_id", sa.String(length=36), nullable=False),
        sa.ForeignKeyConstraint(["pack_id"], ["pack.id"], name="fk_pack_reference_pack_id_pack"),
        sa.PrimaryKeyConstraint("pack_id", "holder_kind", "holder_id", name="pk_pack_reference"),
    )
    op.create_index("ix_pack_reference_holder_kind_holder_id", "pack_reference", ["holder_kind", "holder_id"])


def _create_upload_part() -> None:
    op.create_table(
        "upload_part",
        sa.Column("upload_id", sa.String(length=36), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("length", sa.BigInteger(), nullable=False),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["upload_id"], ["upload.id"], name="fk_upload_part_upload_id_upload", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("upload_id", "number", name="pk_upload_part"),
    )
