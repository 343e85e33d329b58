"""The transparency log: a Merkle tree that can only grow, and proofs that it did."""
