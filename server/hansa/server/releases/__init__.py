"""The operator's TUF repository: keys, publishing and reading."""
