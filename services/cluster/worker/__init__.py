"""A worker, which computes the requests that it takes from the broker."""
