"""Hearth on one machine, measured beside llama-server."""
