"""A worker: it computes what the broker hands it."""
