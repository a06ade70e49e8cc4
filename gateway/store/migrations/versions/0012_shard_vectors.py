"""PostgreSQL: which keys of shards have a vector, so that pgvector can be given them, whoever has written them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# `shard_vectors` has no vectors yet: gateway/shards/search/vector_table.py adds their column where there is pgvector.
# The function never names it, as it goes when somebody drops the extension.
CREATE_FUNCTION = """
CREATE FUNCTION note_shard_vector() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM shard_vectors WHERE key = NEW.id;
  IF length(NEW.vector) > 0 AND length(NEW.vector) % 4 = 0 THEN
    INSERT INTO shard_vectors (key, audience, dimensions) VALUES (NEW.id, NEW.audience, length(NEW.vector) / 4);
  END IF;
  RETURN NULL;
END $$
"""


def upgrade() -> None:
    if op.get_context().dialect.name != "postgresql":
        return
    op.create_table(
        "shard_vectors",
        sa.Column("key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("audience", sa.String(length=40), nullable=False),
        sa.Column("dimensions", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_shard_vectors")),
    )
    op.execute("LOCK TABLE shard_keys IN SHARE ROW EXCLUSIVE MODE")
    some = "length(vector) > 0 AND length(vector) % 4 = 0"
    op.execute(f"INSERT INTO shard_vectors SELECT id, audience, length(vector) / 4 FROM shard_keys WHERE {some}")
    constraint = op.f("fk_shard_vectors_key_shard_keys")
    op.create_foreign_key(constraint, "shard_vectors", "shard_keys", ["key"], ["id"], ondelete="CASCADE")
    op.create_index("ix_shard_vectors_audience_dimensions", "shard_vectors", ["audience", "dimensions"])
    op.execute(CREATE_FUNCTION)
    for name, when, condition in (
        ("note_new_vector", "INSERT", "NEW.vector IS NOT NULL"),
        ("note_vector", "UPDATE OF vector", "OLD.vector IS DISTINCT FROM NEW.vector"),
    ):
        each = f"FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION note_shard_vector()"
        op.execute(f"CREATE TRIGGER {name} AFTER {when} ON shard_keys {each}")


def downgrade() -> None:
    if op.get_context().dialect.name != "postgresql":
        return
    op.execute("DROP TRIGGER note_new_vector ON shard_keys")
    op.execute("DROP TRIGGER note_vector ON shard_keys")
    op.execute("DROP FUNCTION note_shard_vector()")
    op.drop_table("shard_vectors")
