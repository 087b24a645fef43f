"""The parts that all endpoints share: errors, event streams, headers, limits."""
