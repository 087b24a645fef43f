"""Measurements of searches in documents, of answers that cite them, and of their speed."""
