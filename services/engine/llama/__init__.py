"""llama.cpp, by llama-cpp-python's C bindings; no other package imports llama_cpp."""
