"""Made-up words: the synthetic model's vocabulary, and the texts of the workloads.

A word is a run of syllables, a consonant and a vowel each. A word of two syllables is one token of the model and one of
three is two tokens, so that the texts come to a token and a quarter a word, much as English does for real models.
"""

from __future__ import annotations

from random import Random

SYLLABLES = [consonant + vowel for consonant in "bcdfghjklmnpqrstvwxz" for vowel in "aeiouy"]
# Every fourth word is a long one, at random.
LONG_WORDS = 0.25


def make_text(words: int, rng: Random) -> str:
    """Return a text of so many words, about 1.25 tokens a word."""
    return " ".join("".join(rng.choices(SYLLABLES, k=3 if rng.random() < LONG_WORDS else 2)) for _ in range(words))
