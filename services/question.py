"""What a caller asks, as every endpoint that generates passes it on."""

from __future__ import annotations

from pydantic import field_validator

from services.validation import (
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


class Question(Strict):
    """What a caller asks. What is left out, the selected profile decides."""

    prompt: str
    session_id: SessionId | None = None
    memory_k: MemoryK | None = None
    temperature: Temperature | None = None
    max_tokens: MaxTokens | None = None
    top_p: Share | None = None
    top_k: TopK | None = None
    repeat_penalty: RepeatPenalty | None = None
    stop: StopStrings | None = None
    seed: Seed | None = None

    @field_validator("prompt")
    @classmethod
    def _says_something(cls, prompt: str) -> str:
        if not prompt.strip():
            raise ValueError("the prompt is empty")
        return prompt

    def sampling(self) -> dict[str, float | int]:
        """The sampling parameters that it sets."""
        names = ("temperature", "top_p", "top_k", "repeat_penalty", "seed")
        return {name: value for name in names if (value := getattr(self, name)) is not None}
