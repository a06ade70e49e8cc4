"""Shards, the texts they are found by, how they stand with their readers, and what is kept to learn from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


BARE = sa.text("vector IS NULL")


def upgrade() -> None:
    op.create_table(
        "shards",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("audience", sa.String(length=40), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=True),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("state", sa.String(length=9), nullable=False),
        sa.Column("writer", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("source_hash", sa.String(length=64), nullable=False),
        sa.Column("lot", sa.String(length=32), nullable=False),
        sa.Column("slot", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("updated", sa.Double(), nullable=False),
        sa.Column("valid_to", sa.Double(), nullable=True),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shards")),
        sa.UniqueConstraint("revision", name=op.f("uq_shards_revision")),
    )
    op.create_index("ix_shards_audience_state", "shards", ["audience", "state"])
    op.create_index("ix_shards_tenant_source", "shards", ["tenant", "source"])
    op.create_index("ix_shards_audience_slot", "shards", ["audience", "slot"])
    op.create_index("ix_shards_writer_created", "shards", ["writer", "created"])
    op.create_index("ix_shards_lot", "shards", ["lot"])
    op.create_table(
        "shard_keys",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("shard", sa.String(length=32), nullable=False),
        sa.Column("audience", sa.String(length=40), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shard_keys")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_shard_keys_shard"), "shard_keys", ["shard"])
    op.create_index("ix_shard_keys_bare", "shard_keys", ["id"], sqlite_where=BARE, postgresql_where=BARE)
    op.create_table(
        "shard_readers",
        sa.Column("shard", sa.String(length=32), nullable=False),
        sa.Column("reader", sa.String(length=64).with_variant(sa.Text(), "postgresql"), nullable=False),
        sa.Column("state", sa.String(length=9), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("shown", sa.BigInteger(), nullable=False),
        sa.Column("shown_passed", sa.BigInteger(), nullable=False),
        sa.Column("withheld", sa.BigInteger(), nullable=False),
        sa.Column("withheld_passed", sa.BigInteger(), nullable=False),
        sa.Column("alarm", sa.Text(), nullable=False),
        sa.Column("updated", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("shard", "reader", name=op.f("pk_shard_readers")),
    )
    op.create_table(
        "lessons",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=True),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("failed", sa.Text(), nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("used", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lessons")),
    )
    op.create_index(op.f("ix_lessons_created"), "lessons", ["created"])
    if op.get_context().dialect.name == "sqlite":
        words = "tokenize='porter unicode61 remove_diacritics 2'"
        op.execute(f"CREATE VIRTUAL TABLE shard_fts USING fts5(who, text, {words})")
        op.execute("CREATE VIRTUAL TABLE shard_terms USING fts5vocab(shard_fts, 'row')")
    else:
        words = "array_to_tsvector(ARRAY['@' || who]) || to_tsvector('english', text)"
        columns = "rowid BIGINT PRIMARY KEY, who TEXT NOT NULL, text TEXT NOT NULL"
        op.execute(f"CREATE TABLE shard_fts ({columns}, words TSVECTOR GENERATED ALWAYS AS ({words}) STORED)")
        op.execute("CREATE INDEX ix_shard_fts_words ON shard_fts USING gin (words)")
