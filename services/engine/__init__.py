"""The engine that runs a model on this machine."""

import os

# OpenMP's threads wait for each other many hundred times a token, and libgomp's spin long before they sleep: beside one
# busy process that leaves a few percent of the speed. So short a spin costs nothing alone. Read when llama.cpp is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
