"""From a trained model to a small one that can be served."""
