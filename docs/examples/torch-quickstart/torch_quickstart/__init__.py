"""A Flower app: a small PyTorch classifier on local, synthetic data."""
