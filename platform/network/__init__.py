"""What links carry, and what that takes in seconds and joules."""
