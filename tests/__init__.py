"""The tests drive the real server with the real guide model; small parts alone where that shows more."""
