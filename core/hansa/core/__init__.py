"""Hansa's pure domain: bytes in, objects out; no gRPC, no Flower, no clock, no environment."""
