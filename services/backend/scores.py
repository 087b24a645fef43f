"""Scores of models that rank texts."""

from __future__ import annotations

import math
from collections.abc import Sequence


def probability(scores: Sequence[float]) -> float:
    """Return how likely a document fits its query, from 0 to 1, given a model's scores of the pair.

    Models of several scores give that probability as the first one.
    """
    return scores[0] if len(scores) > 1 else 1 / (1 + math.exp(-max(min(scores[0], 500.0), -500.0)))
