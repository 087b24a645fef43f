"""A model that follows scripts: a real GGUF file, whose few weights are made by hand.

`marker(n)` in a prompt makes the model answer with the script of that marker, and of several the script that was given
last; a prompt without one gets the script "". So the result of the n-th tool call, or the words of a user, choose the
answer, at every temperature and beside other requests.

The scripts' texts are cut into tokens that occur once in all scripts ("items"), but for the family's special tokens and
texts too short for that ("shared"). A llama of one layer then needs no training:

- Two heads attend to the item of the highest rank in the context. Ranks grow along the scripts, markers among them, so
  that this is the last item that was written, or the prompt's marker.
- One head attends to the token before the current one, by RoPE: its score is a sum of cosines with a peak there.
- A unit of the feed-forward layer is on for one state (last item, current token if it is shared, the token before if that
  is needed) and writes the code of the token that follows, which the output matrix reads.

What a model of this size cannot do is forget: an answer that is forced from its script, by a schema or by a thought that
is closed early, goes on with the piece that was to come next.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import gguf
import numpy as np
from numpy.typing import NDArray

from tests.support.tiny import gpt2_spelling, guide_pieces, guide_tokens, write_file, write_header

Matrix = NDArray[np.float32]
Scripts = Mapping[str | tuple[str, str], str]
"""What a model writes, by what its prompt has: see `write_scripted_model`."""

N_CTX = 8192
# The fewest and the most characters of an item.
_SHORTEST, _LONGEST = 5, 24

# The parts of the residual stream. The last element of _CURRENT is on for every item.
_DIM, _HEAD, _N_HEADS = 384, 64, 3
_CURRENT, _LAST, _BEFORE, _NEXT = slice(0, 62), slice(64, 192), slice(192, 254), slice(258, 384)
_ITEM, _NO_ITEM, _ONE, _RANK, _FILL = 61, 62, 63, 256, 257
_N_SHARED = _ITEM
# The RMS norm multiplies embeddings, all of which have the length 2, by this.
_GAIN = float(np.sqrt(_DIM)) / 2
_MOST_ITEMS = 1024
# Any item, as the token before.
_ANY_ITEM = "\0"
# Turns the last pair of a head by nothing within a context, and the first ones by 1, 0.5, 0.24 … radians a token.
_FREQ_BASE = 1e10
_N_TURNING = 14


@dataclass(frozen=True)
class Vocabulary:
    """The special tokens of a family of models: `control` ones, `added` ones that are none of these, and their roles."""

    control: tuple[str, ...]
    added: tuple[str, ...] = ()
    eos: str = ""
    bos: str = ""
    ends: Mapping[str, str] = field(default_factory=dict)
    """Other tokens that end an answer, by llama.cpp's names: eot, eom."""
    words: tuple[str, ...] = ()
    """Words of the form that are written as the tokenizer cuts them: an engine may look for these tokens."""


def marker(name: int | str) -> str:
    """A text which, in a prompt, makes a scripted model answer with the script of this key."""
    return f"@@{name}@@"


class _State(NamedTuple):
    """What the next token depends on. `current` "": any; `before` None: any."""

    last: int
    current: str = ""
    before: str | None = None


def write_scripted_model(path: Path, scripts: Scripts, vocabulary: Vocabulary, chat_template: str = "") -> Path:
    """Write a model that answers by `scripts`, in this order of rank, and return `path`.

    A key is a text that chooses the script, such as `marker(1)`, or "" for a prompt without any. A key (text, token) is
    for prompts that end in this token, such as a template's opened or closed thought. Raises ValueError for scripts whose
    tokens do not tell which one comes next.
    """
    tokens = _Tokens(vocabulary, scripts.values())
    chains: dict[tuple[int, str], list[str]] = {}
    for key, script in scripts.items():
        text, end = (key, "") if isinstance(key, str) else key
        start = tokens.add_marker(text)
        if end:
            tokens.share(end)
        chains[start, end] = [*tokens.cut(script), vocabulary.eos]
    tokens.share(vocabulary.eos)
    writer = write_header(
        path,
        "llama",
        tokens.texts,
        dim=_DIM,
        layers=1,
        n_ctx=N_CTX,
        special=tokens.special,
        bos=vocabulary.bos,
        eos=vocabulary.eos,
    )
    for role, text in vocabulary.ends.items():
        getattr(writer, f"add_{role}_token_id")(tokens.texts.index(text))
    if chat_template:
        writer.add_chat_template(chat_template)
    _add_weights(writer, tokens, _transitions(chains, tokens))
    return write_file(writer, path)


class _Tokens:
    """The vocabulary, which grows with the scripts that are cut."""

    def __init__(self, vocabulary: Vocabulary, scripts: Iterable[str]) -> None:
        self.texts = guide_tokens()
        self.special = dict.fromkeys(vocabulary.control, gguf.TokenType.CONTROL)
        self.special |= dict.fromkeys(vocabulary.added, gguf.TokenType.USER_DEFINED)
        self.items: dict[str, int] = {}
        """The rank of each item; 0 is for no item at all."""
        self.shared: dict[str, int] = {}
        self._taken = set(self.texts)
        self._words = vocabulary.words
        longest_first = sorted((*self.special, *self._words), key=len, reverse=True)
        self._pattern = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        parts = Counter(part for script in scripts for part in self._pattern.split(script))
        # A part can be cut in two in so many ways.
        self._repeated = {part for part, n in parts.items() if part and n > max(1, len(part) - 2 * _SHORTEST + 1)}
        for text in self.special:
            self._add(text)

    def add_marker(self, text: str) -> int:
        """The rank of a marker's item, which becomes a token of its own wherever it stands in a prompt."""
        if text and text not in self.items:
            self.special.setdefault(text, gguf.TokenType.USER_DEFINED)
            self._add(text)
            self._rank(text)
        return self.items[text] if text else 0

    def cut(self, script: str) -> Iterator[str]:
        """Yield a script's tokens, as they are spelled in the vocabulary."""
        for part in self._pattern.split(script):
            if part in self.special:
                yield self.share(part)
            elif part in self._words:
                yield from map(self.share, guide_pieces(part))
            elif part in self._repeated:
                yield self.share(gpt2_spelling(part))
            elif part:
                yield from self._cut_plain(gpt2_spelling(part))

    def share(self, token: str) -> str:
        """Make this a token that may occur several times."""
        self._add(token)
        if token in self.items:
            raise ValueError(f"{token} stands in several places behind much of the same: write another text")
        if len(self.shared) == _N_SHARED and token not in self.shared:
            raise ValueError(f"more than {_N_SHARED} tokens occur several times, as {token} does: write longer texts")
        self.shared.setdefault(token, len(self.shared))
        return token

    def _cut_plain(self, text: str) -> Iterator[str]:
        pieces = self._new_pieces(text)
        if pieces is None:
            yield self.share(text)
        for piece in pieces or ():
            self._add(piece)
            self._rank(piece)
            yield piece

    def _new_pieces(self, text: str) -> list[str] | None:
        """A text cut into short tokens that are new; None if that fails."""
        ends: dict[int, list[str] | None] = {len(text): []}
        for start in reversed(range(len(text))):
            lengths = range(_SHORTEST, min(len(text) - start, _LONGEST) + 1)
            tried = ((text[start : start + n], ends[start + n]) for n in lengths)
            found = (
                [piece, *rest]
                for piece, rest in tried
                if rest is not None and piece not in self._taken and piece not in rest
            )
            ends[start] = next(found, None)
        return ends[0]

    def _add(self, text: str) -> None:
        if text not in self._taken:
            self.texts.append(text)
            self._taken.add(text)

    def _rank(self, text: str) -> None:
        self.items[text] = len(self.items) + 1
        assert len(self.items) < _MOST_ITEMS, "the scripts are too long"


def _transitions(chains: Mapping[tuple[int, str], list[str]], tokens: _Tokens) -> dict[_State, str]:
    """The token that follows in each state, by as few conditions as tell it."""
    found: dict[_State, dict[str | None, str]] = {}
    for (start, end), chain in chains.items():
        last, current, before, newest = start, end, None, end or None
        for token in chain:
            followers = found.setdefault(_State(last, current), {})
            if followers.setdefault(before, token) != token:
                raise ValueError(f"two tokens, {followers[before]!r} and {token!r}, follow {current!r} behind {before!r}")
            if token in tokens.items:
                last, current, before, newest = tokens.items[token], "", None, _ANY_ITEM
            else:
                current, before, newest = token, newest, token
    states: dict[_State, str] = {}
    for state, followers in found.items():
        if len(set(followers.values())) == 1:
            states[state] = next(iter(followers.values()))
        else:
            states |= {state._replace(before=before): token for before, token in followers.items()}
    return states


def _codes(rng: np.random.Generator, names: Sequence[str | int], size: int) -> dict[str | int, Matrix]:
    """A random direction of length 1 for each name, all of them far from each other."""
    made = rng.standard_normal((len(names), size)).astype(np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return dict(zip(names, made, strict=True))


def _add_weights(writer: gguf.GGUFWriter, tokens: _Tokens, states: Mapping[_State, str]) -> None:
    rng = np.random.default_rng(0)
    items = _codes(rng, [0, *tokens.items.values()], 128)
    follow = _codes(rng, list(dict.fromkeys(states.values())), 126)
    n_units = -(-len(states) // 32) * 32
    writer.add_feed_forward_length(n_units)
    writer.add_head_count(_N_HEADS)
    writer.add_head_count_kv(_N_HEADS)
    writer.add_key_length(_HEAD)
    writer.add_value_length(_HEAD)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(_HEAD)
    writer.add_rope_freq_base(_FREQ_BASE)
    writer.add_tensor("token_embd.weight", _embeddings(tokens, items))
    for name, matrix in _attention(items[0]).items():
        writer.add_tensor(f"blk.0.attn_{name}.weight", matrix)
    for name, matrix in _units(tokens, states, items, follow, n_units).items():
        writer.add_tensor(f"blk.0.ffn_{name}.weight", matrix)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(_DIM, np.float32))
    output = np.zeros((len(tokens.texts), _DIM), np.float16)
    ids = {text: n for n, text in enumerate(tokens.texts)}
    for text, code in follow.items():
        output[ids[str(text)], _NEXT] = 4 * code
    writer.add_tensor("output.weight", output)


def _embeddings(tokens: _Tokens, items: Mapping[str | int, Matrix]) -> Matrix:
    """The vectors of all tokens, each of length 2: its own code or place, its rank, and what fills that up."""
    made = np.zeros((len(tokens.texts), _DIM), np.float32)
    made[:, _ONE] = 1
    for n, text in enumerate(tokens.texts):
        vector = made[n]
        if rank := tokens.items.get(text):
            vector[_LAST], vector[_ITEM] = items[rank], 1
            vector[_RANK] = rank / _MOST_ITEMS
        else:
            vector[_NO_ITEM] = 1
            if text in tokens.shared:
                vector[tokens.shared[text]] = 1
        vector[_FILL] = np.sqrt(4 - vector @ vector)
    return made


def _attention(no_item: Matrix) -> dict[str, Matrix]:
    size = _N_HEADS * _HEAD
    q, k, v = (np.zeros((size, _DIM), np.float32) for _ in range(3))
    out = np.zeros((_DIM, size), np.float32)
    for head in (0, 1):
        # Scores are 16 apart from one rank to the next: 128 times the rank, over the root of the head's size.
        q[head * _HEAD + 62, _ONE] = 128 / _GAIN
        k[head * _HEAD + 62, _RANK] = _MOST_ITEMS / _GAIN
    for n in range(128):
        v[n, _LAST.start + n] = 1 / _GAIN
        v[n, _NO_ITEM] = no_item[n] / _GAIN
        out[_LAST.start + n, n] = 4
    for pair in range(_N_TURNING):
        angle = _FREQ_BASE ** (-2 * pair / _HEAD)
        row = 2 * _HEAD + 2 * pair
        # The query is turned back by one token's angle, so that it fits the key one token ago best.
        q[row : row + 2, _ONE] = 25 * np.cos(angle) / _GAIN, -25 * np.sin(angle) / _GAIN
        k[row, _ONE] = 8 / _GAIN
    for n in range(_CURRENT.stop):
        v[2 * _HEAD + n, n] = 1 / _GAIN
        out[_BEFORE.start + n, 2 * _HEAD + n] = 1
    return {"q": q, "k": k, "v": v, "output": out}


def _units(
    tokens: _Tokens,
    states: Mapping[_State, str],
    items: Mapping[str | int, Matrix],
    follow: Mapping[str | int, Matrix],
    n_units: int,
) -> dict[str, Matrix]:
    """The feed-forward layer, in which a unit is on if all its conditions hold."""
    gate, up = np.zeros((n_units, _DIM), np.float32), np.zeros((n_units, _DIM), np.float32)
    down = np.zeros((_DIM, n_units), np.float32)
    for n, (state, token) in enumerate(states.items()):
        conditions = 1
        # The attention adds four times the last item's code.
        gate[n, _LAST] = items[state.last] / 4
        if state.current:
            gate[n, tokens.shared[state.current]] = 1
            conditions += 1
        if state.before is not None:
            gate[n, _BEFORE.start + tokens.shared.get(state.before, _ITEM)] = 1
            conditions += 1
        gate[n, _ONE] = 0.25 - conditions
        gate[n] *= 20
        up[n, _ONE] = 1
        # The more conditions, the stronger: a unit of fewer is on beside it.
        down[_NEXT, n] = follow[token] * 0.5 * 3 ** (conditions - 1)
    return {"gate": gate, "up": up, "down": down}
