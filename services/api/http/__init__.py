"""What all endpoints share: errors, event streams, headers, limits."""
