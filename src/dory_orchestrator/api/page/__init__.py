"""The page for operators at `/`: what the fleet is, live, and what may be decided."""
