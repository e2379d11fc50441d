"""What each command does, from plain arguments."""
