"""Where the rooms are joined."""
