"""One merchant's site."""
