"""Hearth beside llama.cpp's own llama-server, over HTTP, on this machine: `benchmarks/run`."""
