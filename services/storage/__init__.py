"""The server's own files: JSON that people may edit, and SQLite."""
