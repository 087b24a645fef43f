"""Messages to prompt text to tokens, fitted into the context."""
