"""The merchant's side of the rounds: takes tasks, answers them, loses nothing."""
