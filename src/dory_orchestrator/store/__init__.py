"""PostgreSQL: migrations, named queries, and a server of our own for one machine."""
