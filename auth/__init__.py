"""Who may ask: the key store, and the guards of the resources."""
