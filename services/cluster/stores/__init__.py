"""The stores of a cluster's API nodes, in Redis."""
