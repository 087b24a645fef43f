"""Conversations: their messages, and the stores that keep them."""
