"""The engine's process, and the server's connection to it."""
