"""The gRPC plane: what merchants and the operator can call."""
