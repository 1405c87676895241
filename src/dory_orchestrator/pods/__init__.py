"""HTTP called on pods, and on the receivers of webhooks."""
