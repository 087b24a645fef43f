"""The HTTP server in front of the application: waitress, TLS, shutdown, and a public tunnel."""
