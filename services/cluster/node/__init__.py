"""An API node: it serves, and workers compute."""
