"""From a merchant's raw exports to checked items and events, with a report of what was dropped."""
