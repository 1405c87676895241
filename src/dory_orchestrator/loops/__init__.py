"""What runs for as long as the service does."""
