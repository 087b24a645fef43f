"""Other systems' APIs: Langformers, API Host and ProtoLLM."""
