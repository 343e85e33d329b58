"""The operator's transparency log: its tree in the database, and what feeds it."""
