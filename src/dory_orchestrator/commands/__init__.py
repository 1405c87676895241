"""Commands that talk to something that runs."""
