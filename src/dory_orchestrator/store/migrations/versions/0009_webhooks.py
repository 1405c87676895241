"""How far each webhook is, what its receiver did not take, and a quicker end of old moves."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Nothing of it was there before."""
    for statement in (_WEBHOOKS, _DEAD_LETTERS, _DUE_LETTERS, _ENDED_MOVES):
        op.execute(statement)


_WEBHOOKS = """
CREATE TABLE orchestrator.webhooks (
    name text NOT NULL,
    url text NOT NULL,
    kinds text[] NOT NULL,
    position bigint NOT NULL,
    tries integer NOT NULL DEFAULT 0,
    failures integer NOT NULL DEFAULT 0,
    delivered_at timestamptz,
    last_error text,
    last_error_at timestamptz,
    next_try_at timestamptz,
    dropped bigint NOT NULL DEFAULT 0,
    removed_at timestamptz,
    CONSTRAINT webhooks_pkey PRIMARY KEY (name)
) WITH (fillfactor = 50)
"""

_DEAD_LETTERS = """
CREATE TABLE orchestrator.webhook_dead_letters (
    webhook text NOT NULL,
    event_id bigint NOT NULL,
    event_at timestamptz NOT NULL,
    died_at timestamptz NOT NULL DEFAULT now(),
    tries integer NOT NULL,
    error text NOT NULL,
    retry_at timestamptz,
    CONSTRAINT webhook_dead_letters_pkey PRIMARY KEY (webhook, event_id)
)
"""

_DUE_LETTERS = """
CREATE INDEX webhook_dead_letters_due_idx ON orchestrator.webhook_dead_letters (webhook, event_id)
    WHERE retry_at IS NOT NULL
"""

_ENDED_MOVES = "CREATE INDEX moves_ended_at_idx ON orchestrator.moves (ended_at)"
