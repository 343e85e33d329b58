"""The models that are trained and served."""
