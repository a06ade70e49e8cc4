"""Limits of keys, what they have spent, and whose request it was."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("keys", sa.Column("expires", sa.Double(), nullable=True))
    op.add_column("keys", sa.Column("tenant", sa.String(length=64), nullable=True))
    op.add_column("keys", sa.Column("is_admin", sa.Boolean(), server_default="0", nullable=False))
    op.add_column("keys", sa.Column("limits", sa.Text(), server_default="{}", nullable=False))
    op.add_column("keys", sa.Column("old_hash", sa.String(length=64), nullable=True))
    op.add_column("keys", sa.Column("old_until", sa.Double(), nullable=True))
    op.add_column("keys", sa.Column("version", sa.Integer(), server_default="0", nullable=False))
    op.create_table(
        "budgets",
        sa.Column("key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("day", sa.String(length=10), nullable=False),
        sa.Column("usd", sa.Double(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key", "day", name=op.f("pk_budgets")),
    )
    op.add_column("journal", sa.Column("tenant", sa.String(length=64), nullable=True))
