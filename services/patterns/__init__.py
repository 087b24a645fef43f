"""Regular expressions as llguidance takes them: read, joined, turned around, and written without looking around."""
