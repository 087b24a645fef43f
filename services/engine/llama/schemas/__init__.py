"""JSON schemas as clients send them, in the part of the language that a grammar can keep to."""
