"""Own files: parsed, cut into chunks, indexed, and found again by a question."""
