"""The engine's process, and the way to it."""
