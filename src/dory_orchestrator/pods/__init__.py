"""HTTP called on pods."""
