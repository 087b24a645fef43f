"""The HTTP server before the application: waitress, TLS, how it stops, and a tunnel to it."""
