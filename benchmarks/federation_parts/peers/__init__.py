"""What others offer for the same work, measured beside it."""
