"""The HTTP resources, one file a family."""
