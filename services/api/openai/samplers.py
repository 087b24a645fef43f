"""The names of samplers, as clients of llama-server, SillyTavern and text-generation-webui write them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from services.backend.types import SAMPLERS

# The most names in a list, or characters in a text.
_MOST_NAMES = 512
# Other names of samplers, squeezed as `_squeezed` does.
_ALIASES = {
    "typ": "typ_p",
    "typical": "typ_p",
    "typicalp": "typ_p",
    "nucleus": "top_p",
    "nsigma": "top_n_sigma",
    "temp": "temperature",
    "dynatemp": "temperature",
    "dynamictemperature": "temperature",
    "penalty": "penalties",
    "repeatpenalty": "penalties",
    "repetitionpenalty": "penalties",
    "presencepenalty": "penalties",
    "frequencypenalty": "penalties",
}
_KNOWN = {each.replace("_", ""): each for each in SAMPLERS} | _ALIASES
# Samplers of other servers, which clients list by default: each is off unless a field of its own turns it on.
_OFF = (
    *("adaptivep", "tfs", "tfsz", "topa", "mirostat", "quadratic", "quadraticsampling"),
    *("epsiloncutoff", "etacutoff", "skew", "norepeatngram", "encoderrepetitionpenalty"),
)
# The characters by which llama-server knows samplers (`common_sampler_type_to_chr` of its common/sampling.cpp); f was TFS.
_CHARACTERS = {
    "e": "penalties",
    "d": "dry",
    "s": "top_n_sigma",
    "k": "top_k",
    "y": "typ_p",
    "p": "top_p",
    "m": "min_p",
    "x": "xtc",
    "t": "temperature",
    "a": "adaptive_p",
    "f": "tfs_z",
}


def sampler_names(given: str | Sequence[str]) -> tuple[str, ...]:
    """Return the samplers of a list of names, or of a text of names or characters, by the engine's names, in their order.

    Raises ValueError for a name that is unknown, and where no sampler is left.
    """
    if len(given) > _MOST_NAMES:
        raise ValueError(f"may hold at most {_MOST_NAMES} characters or names")
    names = [found for each in _listed(given) if (found := _known(each)) is not None]
    if not names:
        raise ValueError(f"names no sampler; there are {', '.join(SAMPLERS)}")
    return tuple(dict.fromkeys(names))


def _listed(given: str | Sequence[str]) -> Sequence[str]:
    if not isinstance(given, str):
        return given
    names = [name for name in re.split(r"[;,\s]+", given) if name]
    if len(names) == 1 and all(each in _CHARACTERS for each in given):
        return [_CHARACTERS[each] for each in given]
    return names


def _known(name: str) -> str | None:
    """Return the engine's name of a sampler; None for one that is off. Raises ValueError for one that is unknown."""
    squeezed = _squeezed(name)
    if squeezed in _OFF:
        return None
    if squeezed not in _KNOWN:
        raise ValueError(f"there is no sampler {name[:64]!r}; there are {', '.join(SAMPLERS)}")
    return _KNOWN[squeezed]


def _squeezed(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()
