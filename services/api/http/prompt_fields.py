"""The fields of a prompt, as /answer's body and query have them."""

from __future__ import annotations

from services.validation import (
    AnswerPenalty,
    Keep,
    MaxTokens,
    MemoryK,
    RepeatPenalty,
    Seed,
    SessionId,
    Share,
    StopStrings,
    Strict,
    Temperature,
    TopK,
)


class PromptFields(Strict):
    """A prompt, and how to answer it. What is left out, the profile decides; `AnswerRequest` describes the fields."""

    prompt: str
    session_id: SessionId | None = None
    memory_k: MemoryK | None = None
    keep: Keep | None = None
    temperature: Temperature | None = None
    max_tokens: MaxTokens | None = None
    top_p: Share | None = None
    top_k: TopK | None = None
    min_p: Share | None = None
    repeat_penalty: RepeatPenalty | None = None
    presence_penalty: AnswerPenalty | None = None
    frequency_penalty: AnswerPenalty | None = None
    stop: StopStrings | None = None
    seed: Seed | None = None
