"""The operator's server."""
