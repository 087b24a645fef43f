"""llama.cpp: the only modules that import llama_cpp."""
