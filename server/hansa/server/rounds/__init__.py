"""The rounds: Flower's strategies over our plane."""
