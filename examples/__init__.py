"""Examples of clients and deployments."""
