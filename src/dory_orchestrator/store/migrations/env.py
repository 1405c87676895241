"""Alembic runs this for each migration run; `store/migrate.py` gives it the connection."""

from alembic import context

from dory_orchestrator.store.revision import SCHEMA

# The transaction around it is that of migrate.py: checks, migrations and triggers in one.
context.configure(
    connection=context.config.attributes["connection"],
    version_table_schema=SCHEMA,
)
context.run_migrations()
