"""Cached answers, and what was to be erased of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "answers",
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=True),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("alike", sa.LargeBinary(), nullable=True),
        sa.Column("vector", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_answers")),
    )
    for column in ("tenant", "created", "expires"):
        op.create_index(op.f(f"ix_answers_{column}"), "answers", [column])
    alike = sa.text("alike IS NOT NULL")
    columns = ["alike", "created"]
    op.create_index("ix_answers_alike_created", "answers", columns, sqlite_where=alike, postgresql_where=alike)
    op.create_table(
        "answer_purges",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=True),
        sa.Column("user", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_answer_purges")),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    op.drop_table("answer_purges")
    op.drop_table("answers")
