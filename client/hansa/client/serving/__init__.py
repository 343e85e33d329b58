"""The port on which a shop's own programs ask for answers; nothing leaves the site through it."""
