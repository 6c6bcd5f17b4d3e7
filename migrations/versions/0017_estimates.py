"""A preflight may be an estimate."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("preflights", sa.Column("total_estimated", sa.Boolean(), server_default="false", nullable=False))
    op.add_column("preflights", sa.Column("margin_percent", sa.Double(), nullable=True))


def downgrade() -> None:
    op.drop_column("preflights", "margin_percent")
    op.drop_column("preflights", "total_estimated")
