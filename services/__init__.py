"""The server's parts, one idea a file."""
