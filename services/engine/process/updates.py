"""Updates of generations, from the engine to the server: those of one step are one binary message, with no JSON per token.

Format, little-endian: the byte `_MARKER`, with which no JSON object begins, then the updates. Each is a `_HEAD` of the
generation's number and the counts of what follows: tokens (int32), choices, choices of the prompt, pieces, bytes of JSON.
A choice is a `_CHOICE` of the numbers of likeliest tokens and of ids; then, of the chosen token and the likeliest, the
lengths of the pieces (uint32) and the logprobs (float64); then the ids (int32) and the pieces. A piece of text is a
`_PIECE` and its UTF-8, in which surrogates may stand. The JSON object has what is rare: `finish`, `error`, `left`,
`queue_position`, `n_read`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from services.backend.codec import Message, error_from_json, error_to_json, from_json, to_json
from services.backend.types import Finish, Mark, Spent, TokenChoice
from services.errors import HearthError

_MARKER = b"\x01"
_HEAD = struct.Struct("<6I")
_CHOICE = struct.Struct("<2I")
# 1 for a mark; how many of the update's choices belong to this piece and those before it; the bytes of its text.
_PIECE = struct.Struct("<B2I")


@dataclass(frozen=True)
class Update:
    """What has come of one generation since its last update."""

    number: int
    tokens: Sequence[int] = ()
    choices: Sequence[TokenChoice] = ()
    prompt_choices: Sequence[TokenChoice] = ()
    pieces: Sequence[tuple[str, int]] = ()
    """Texts and marks, each with the number of these `choices` that had come at its time."""
    end: Finish | HearthError | None = None
    left: Spent | None = None
    """The cost of all, once its sequence has left the engine."""
    queue_position: int | None = None
    n_read: int | None = None


def is_updates(data: bytes) -> bool:
    """Return whether a message is one of updates."""
    return data[:1] == _MARKER


def encode(updates: Iterable[Update]) -> bytes:
    """Return updates as the bytes of one message."""
    parts = [_MARKER]
    for update in updates:
        tokens, pieces, rare = update.tokens, update.pieces, _rare(update)
        counts = len(tokens), len(update.choices), len(update.prompt_choices), len(pieces), len(rare)
        parts += [_HEAD.pack(update.number, *counts), struct.pack(f"<{len(tokens)}i", *tokens)]
        parts += [_choice(each) for choices in (update.choices, update.prompt_choices) for each in choices]
        for text, n_choices in pieces:
            data = text.encode("utf-8", "surrogatepass")
            parts += [_PIECE.pack(isinstance(text, Mark), n_choices, len(data)), data]
        parts.append(rare)
    return b"".join(parts)


def decode(data: bytes) -> list[Update]:
    """Return the updates of a message. Raises ValueError for bytes that `encode` has not written."""
    try:
        at, updates = len(_MARKER), []
        while at < len(data):
            update, at = _update(data, at)
            updates.append(update)
    except (struct.error, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"the updates are damaged: {error}") from error
    if at != len(data):
        raise ValueError("the updates end too early")
    return updates


def _rare(update: Update) -> bytes:
    """The JSON of what few updates have; b"" if it has nothing of that."""
    told: Message = {}
    if update.queue_position is not None:
        told["queue_position"] = update.queue_position
    if update.n_read is not None:
        told["n_read"] = update.n_read
    if isinstance(update.end, Finish):
        told["finish"] = to_json(update.end)
    elif update.end:
        told["error"] = error_to_json(update.end)
    if update.left:
        told["left"] = to_json(update.left)
    return json.dumps(told).encode() if told else b""


def _choice(choice: TokenChoice) -> bytes:
    pieces = [choice.piece, *(piece for piece, _ in choice.top)]
    logprobs = [choice.logprob, *(logprob for _, logprob in choice.top)]
    ids = choice.ids
    numbers = struct.pack(f"<{len(pieces)}I{len(pieces)}d{len(ids)}i", *map(len, pieces), *logprobs, *ids)
    return b"".join([_CHOICE.pack(len(choice.top), len(ids)), numbers, *pieces])


def _update(data: bytes, at: int) -> tuple[Update, int]:
    """The update at a position, and the position behind it."""
    number, n_tokens, n_choices, n_prompt, n_pieces, n_rare = _HEAD.unpack_from(data, at)
    at += _HEAD.size
    tokens = struct.unpack_from(f"<{n_tokens}i", data, at)
    at += 4 * n_tokens
    choices, at = _read_choices(data, at, n_choices)
    prompt_choices, at = _read_choices(data, at, n_prompt)
    pieces = []
    for _ in range(n_pieces):
        is_mark, n, size = _PIECE.unpack_from(data, at)
        at += _PIECE.size
        text = data[at : at + size].decode("utf-8", "surrogatepass")
        pieces.append((Mark(text) if is_mark else text, n))
        at += size
    if not n_rare:
        return Update(number, tokens, choices, prompt_choices, pieces), at
    told = json.loads(data[at : at + n_rare])
    end: Finish | HearthError | None = None
    if "finish" in told:
        end = from_json(Finish, told["finish"])
    elif "error" in told:
        end = error_from_json(told["error"])
    left = from_json(Spent, told["left"]) if "left" in told else None
    rare = end, left, told.get("queue_position"), told.get("n_read")
    return Update(number, tokens, choices, prompt_choices, pieces, *rare), at + n_rare


def _read_choices(data: bytes, at: int, count: int) -> tuple[list[TokenChoice], int]:
    choices = []
    for _ in range(count):
        n_top, n_ids = _CHOICE.unpack_from(data, at)
        at += _CHOICE.size
        numbers = f"<{n_top + 1}I{n_top + 1}d{n_ids}i"
        values = struct.unpack_from(numbers, data, at)
        at += struct.calcsize(numbers)
        sizes, logprobs, ids = values[: n_top + 1], values[n_top + 1 : 2 * n_top + 2], values[2 * n_top + 2 :]
        ends = list(accumulate(sizes, initial=at))
        piece, *likeliest = [data[start:end] for start, end in pairwise(ends)]
        at = ends[-1]
        choices.append(TokenChoice(piece, logprobs[0], tuple(zip(likeliest, logprobs[1:], strict=True)), ids))
    return choices, at
