"""The engine that runs a model on this machine."""

import os

# OpenMP's threads wait for each other many hundred times a token. Spinning, as they do by default, they take the cores from
# whatever else runs: beside one busy process the speed falls to a few percent. Read when llama.cpp is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
