"""Releases on their way to the site: fetched, verified, installed."""
