"""What the scope constraint needs: equality in GiST, and ranges of ids."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE EXTENSION IF NOT EXISTS btree_gist")
    op.execute("CREATE TYPE uuidrange AS RANGE (subtype = uuid)")


def downgrade() -> None:
    op.execute("DROP TYPE uuidrange")
