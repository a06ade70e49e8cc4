"""Run by Alembic. The connection, and the transaction around the upgrade, are the caller's.

A new revision is a file in versions/ (`script.py.mako` is its shape): four digits counted up, set as `HEAD` too.
"""

from alembic import context

from gateway.store.tables import METADATA

# render_as_batch: SQLite cannot alter most things in place, Alembic then copies the table
connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=METADATA, render_as_batch=True, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
