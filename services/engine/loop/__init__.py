"""The engine's thread, which owns a model, and its scheduling."""
