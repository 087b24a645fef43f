"""Attacks and faults against a real server; the long runs are behind numbers in the environment."""
