"""The text of a file, parsed in a process of its own."""
