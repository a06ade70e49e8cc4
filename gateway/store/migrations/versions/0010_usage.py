"""What was spent, summed by hour, and what single models would have cost."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "usage",
        sa.Column("hour", sa.BigInteger(), autoincrement=False, nullable=False),
        *(
            sa.Column(name, sa.Text(), nullable=False)
            for name in ("key", "policy", "route", "model", "layer", "purpose")
        ),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("errors", sa.BigInteger(), nullable=False),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column("estimated", sa.BigInteger(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost_usd", sa.Double(), nullable=False),
        sa.Column("unknown_cost", sa.BigInteger(), nullable=False),
        sa.Column("busy_s", sa.Double(), nullable=False),
        sa.Column("measured_j", sa.Double(), nullable=False),
        sa.Column("modelled_j", sa.Double(), nullable=False),
        sa.Column("unknown_energy", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hour", "key", "policy", "route", "model", "layer", "purpose", name=op.f("pk_usage")),
    )
    op.create_table(
        "rivals",
        sa.Column("hour", sa.BigInteger(), autoincrement=False, nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("key", "policy", "model")),
        sa.Column("largest", sa.Boolean(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("compared", sa.BigInteger(), nullable=False),
        sa.Column("exact", sa.BigInteger(), nullable=False),
        sa.Column("instead_usd", sa.Double(), nullable=False),
        sa.Column("spent_usd", sa.Double(), nullable=False),
        sa.Column("unable", sa.BigInteger(), nullable=False),
        sa.Column("judged", sa.BigInteger(), nullable=False),
        sa.Column("passed", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hour", "key", "policy", "model", "largest", name=op.f("pk_rivals")),
    )


def downgrade() -> None:
    op.drop_table("rivals")
    op.drop_table("usage")
