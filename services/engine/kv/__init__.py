"""Computed state: on slots, in RAM and on disk."""
