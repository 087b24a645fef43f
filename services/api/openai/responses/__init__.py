"""OpenAI's Responses API: responses that are stored, and go on from each other."""
