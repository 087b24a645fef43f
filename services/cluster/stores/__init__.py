"""What the API nodes of a cluster keep in Redis."""
