"""Ways to use a Hearth server."""
