"""Requests that are computed once, however often they are sent."""
