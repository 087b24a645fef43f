"""Conversations: their messages, and where they are kept."""
