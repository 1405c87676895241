"""The fleet in one process, on a clock of its own: decisions tried against every kind of trouble."""
