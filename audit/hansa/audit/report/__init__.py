"""The regulator pack: what a verified run shows, for people who have never seen one."""
