"""Keys, identities and limits: the key store, and the guard of the routes."""
