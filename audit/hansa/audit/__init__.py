"""The auditor's tools; they need neither torch nor a connection."""
