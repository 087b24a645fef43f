"""The costs and gains of a cluster, measured on one machine, and estimates for many."""
