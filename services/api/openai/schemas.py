"""The bodies of requests of OpenAI's API: fields are honoured, or refused by name (`fields.py` lists them)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator
from typing_extensions import override

from services.api.http.file_fields import FileFields
from services.api.http.open_body import Lenient, Open, Whole
from services.api.http.request_fields import Listed
from services.api.openai.constraint_fields import (
    Choices,
    Grammar,
    ResponseFormat,
    Schema,
    StructuredOutputs,
    Syntax,
    constraints_of,
    schema_of,
)
from services.api.openai.fields import known_fields
from services.api.openai.messages import MOST_MESSAGES, CallOfAssistant, ChatMessage, ChatMessages, Name
from services.api.openai.sampling_fields import AnyMaxTokens, Count, SamplingFields
from services.api.openai.thinking_fields import ThinkingFields, agreed
from services.api.openai.tool_fields import (
    FunctionChoice,
    Functions,
    ToolChoice,
    Tools,
    WithTools,
    check_choice,
    check_names,
    chosen,
)
from services.backend.types import Constraint, Prompt
from services.validation import MemoryK, SessionId

__all__ = [
    "MOST_MESSAGES",
    "CallOfAssistant",
    "ChatMessage",
    "ChatMessages",
    "ChatRequest",
    "CompletionRequest",
    "EmbeddingsRequest",
    "Generating",
    "Lenient",
    "Listed",
    "Name",
    "Tools",
    "prompts_of",
]

# Answers that one request may ask for: as many as the queue holds by default.
MOST_ANSWERS = 32
Top = Annotated[int, Field(ge=0, le=20), Whole]


class StreamOptions(Open):
    """The options of a stream."""

    include_usage: bool | None = None


class Generating(Listed, SamplingFields):
    """The fields that chats and completions share."""

    model: Name | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    json_schema: Schema | str | None = None
    grammar: Grammar | None = None
    grammar_syntax: Syntax | None = None
    ebnf: Grammar | None = None
    regex: Grammar | None = None
    guided_json: Schema | str | None = None
    guided_regex: Grammar | None = None
    guided_choice: Choices | None = None
    guided_grammar: Grammar | None = None
    n_probs: Top | None = None
    prompt_logprobs: Top | None = None
    structured_outputs: StructuredOutputs | None = None

    @field_validator("json_schema", "guided_json")
    @classmethod
    def _is_schema(cls, given: Any) -> Any:
        return schema_of(given)

    @field_validator("grammar", "ebnf", "guided_grammar", mode="before")
    @classmethod
    def _is_grammar(cls, given: Any) -> Any:
        # SillyTavern sends an empty one for none.
        return None if given == "" else given

    @model_validator(mode="after")
    def _has_one_form(self) -> Generating:
        names = [name for name, _ in constraints_of(self)]
        if len(names) > 1:
            raise ValueError(f"{names[1]}: an answer has one form, and {names[0]} gives one already")
        if self.grammar_syntax and not self.grammar:
            raise ValueError("grammar_syntax goes with grammar")
        return self

    @model_validator(mode="after")
    def _tells_its_prompt(self) -> Generating:
        if self.prompt_logprobs is not None and self.stream:
            raise ValueError("prompt_logprobs cannot be streamed")
        return self

    @property
    def n_top(self) -> int | None:
        """The number of likeliest tokens that are reported at each position of the answer; None: no logprobs at all."""
        return self.n_probs or None

    @property
    def n_told(self) -> int | None:
        """The number of likeliest tokens that are computed at each position, the prompt's too; None: no logprobs at all."""
        return max((n for n in (self.n_top, self.prompt_logprobs) if n is not None), default=None)

    @property
    def constraint(self) -> Constraint | None:
        """The form that the answer has to have."""
        return next((constraint for _, constraint in constraints_of(self)), None)

    @property
    def constraint_field(self) -> str:
        """The field that asks for the constraint; "" for none."""
        return next((name for name, _ in constraints_of(self)), "")


class ChatRequest(Generating, ThinkingFields, WithTools, FileFields):
    """The body of POST /v1/chat/completions."""

    listed = known_fields("chat")

    messages: ChatMessages
    max_completion_tokens: AnyMaxTokens | None = None
    logprobs: bool | None = None
    top_logprobs: Top | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: Functions | None = None
    function_call: FunctionChoice | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | Literal["content", "reasoning_content"] | None = None
    session_id: Annotated[SessionId, Whole] | None = None
    memory_k: Annotated[MemoryK, Whole] | None = None

    @model_validator(mode="after")
    def _choice_fits(self) -> ChatRequest:
        names = [function.name for function in self.own_functions]
        if self.functions is not None and self.tools is not None:
            raise ValueError("functions cannot be given beside tools, which are the newer form of the same")
        check_names("tools", names)
        check_choice("tool_choice", self.tool_choice, names)
        older = [function.name for function in self.functions or ()]
        check_names("functions", older)
        check_choice("function_call", self.function_call, older)
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        return self

    @model_validator(mode="after")
    def _is_text_or_call(self) -> ChatRequest:
        choice, _ = chosen(self.tool_choice if self.functions is None else self.function_call)
        calls = choice != "none" and bool(self.own_functions or self.functions)
        if calls and self.constraint and self.constraint.kind != "json_schema":
            raise ValueError(f"{self.constraint_field}: an answer in this form cannot call tools: leave one of them out")
        return self

    @model_validator(mode="after")
    def _continues_a_message(self) -> ChatRequest:
        last, wish = self.messages[-1], self.continue_final_message
        if not wish:
            return self
        if last.role != "assistant":
            raise ValueError("continue_final_message: the last message is not the assistant's")
        if last.has_calls:
            raise ValueError("continue_final_message: a message that calls tools cannot be continued")
        if isinstance(wish, str) and (wish == "reasoning_content") != last.is_thought:
            raise ValueError(f"continue_final_message: the last message does not end with its {wish}")
        if self.add_generation_prompt:
            raise ValueError("continue_final_message: a message is either continued or begun (add_generation_prompt)")
        return self

    @property
    def continues(self) -> bool:
        """True if the last message, which is the assistant's, is continued."""
        last, wish = self.messages[-1], self.continue_final_message
        if last.role != "assistant" or last.has_calls:
            return False
        return bool(wish) if wish is not None else not self.add_generation_prompt

    @property
    @override
    def n_top(self) -> int | None:
        if self.logprobs:
            return self.top_logprobs if self.top_logprobs is not None else self.n_probs or 0
        return super().n_top

    @property
    def _lengths(self) -> tuple[str, ...]:
        return "max_completion_tokens", "max_tokens", "n_predict"


# OpenAI's own limit.
MOST_INPUTS = 2048
TokenIds = Annotated[list[Annotated[int, Whole]], Field(min_length=1)]
AnyTexts = str | TokenIds | Annotated[list[str], Field(min_length=1)] | Annotated[list[TokenIds], Field(min_length=1)]


def _texts(most: int) -> BeforeValidator:
    """Refuse anything but a text, token ids, or up to `most` of either: pydantic would find a fault in each member."""

    def check(given: object) -> object:
        if isinstance(given, str):
            return given
        kinds = {_kind(each) for each in given} if isinstance(given, list) else {""}
        if len(kinds) > 1 or "" in kinds:
            raise ValueError("should be a text, a list of token ids, or a list of either")
        assert isinstance(given, list)
        if not given or [] in given:
            raise ValueError("holds an empty list" if given else "is an empty list")
        if kinds != {"id"} and len(given) > most:
            raise ValueError(f"may hold at most {most:,} texts, not {len(given):,}")
        return given

    return BeforeValidator(check)


def _kind(item: object) -> str:
    """Return what an item of a list is: a text, a token id or a list of these; "" if it is none of them."""
    if isinstance(item, bool):
        return ""
    return (
        "text"
        if isinstance(item, str)
        else "ids"
        if isinstance(item, list)
        else "id"
        if isinstance(item, int | float)
        else ""
    )


class CompletionRequest(Generating):
    """The body of POST /v1/completions."""

    listed = known_fields("completions")

    prompt: Annotated[AnyTexts, _texts(MOST_ANSWERS)]
    logprobs: Top | None = None
    echo: bool | None = None
    parse_special: bool | None = None
    add_special_tokens: bool | None = None
    best_of: Count | None = None
    skip_special_tokens: bool | None = None
    suffix: str | None = None
    special: bool | None = None

    @property
    @override
    def n_top(self) -> int | None:
        return self.logprobs if self.logprobs is not None else super().n_top

    @model_validator(mode="after")
    def _fills_a_gap(self) -> CompletionRequest:
        if not self.suffix:
            return self
        if self.echo:
            raise ValueError("echo: with a suffix the reply is what stands between")
        if self.add_special_tokens is False:
            raise ValueError("add_special_tokens: the texts around a gap stand between the model's own tokens")
        if any(not isinstance(each, str) for each in ([self.prompt] if isinstance(self.prompt, str) else self.prompt)):
            raise ValueError("suffix: it needs a prompt that is text")
        return self

    @property
    def parses_special(self) -> bool:
        """True if the texts of special tokens in the prompt are these tokens."""
        return agreed(self.given("special", "parse_special")) is not False

    @model_validator(mode="after")
    def _asks_for_what_there_is(self) -> CompletionRequest:
        agreed(self.given("special", "parse_special"))
        n = self.n_answers
        if self.best_of is not None and self.best_of != n:
            raise ValueError(f"best_of cannot be other than n, which is {n}: all answers are given")
        n_prompts = len(self.prompt) if isinstance(self.prompt, list) and not isinstance(self.prompt[0], int) else 1
        if n_prompts * n > MOST_ANSWERS:
            raise ValueError(f"n: {n_prompts} prompts with {n} answers each are more than {MOST_ANSWERS} at once")
        return self


# Those of Cohere, Voyage and NVIDIA; what is no query has the prefix of documents.
InputType = Literal[
    "query", "document", "passage", "search_query", "search_document", "classification", "clustering", "similarity"
]


class EmbeddingsRequest(Listed):
    """The body of POST /v1/embeddings."""

    listed = known_fields("embeddings")

    input: Annotated[AnyTexts, _texts(MOST_INPUTS)]
    model: Name | None = None
    dimensions: Annotated[int, Field(ge=1), Whole] | None = None
    input_type: (
        Literal["query", "document", "passage", "search_query", "search_document", "classification", "clustering"] | None
    ) = None
    encoding_format: Literal["float", "base64"] | None = None


def prompts_of(given: Any, parse_special: bool = True, bos: bool = True) -> list[Prompt]:
    """Return a text, token ids, or a list of either, as prompts.

    `parse_special`: special tokens may stand in a text. `bos`: the model's BOS token comes before it.
    """
    if isinstance(given, str):
        return [Prompt(given, () if parse_special else ((0, len(given)),), bos=bos)]
    if given and isinstance(given[0], int):
        return [Prompt("", ids=tuple(given))]
    return [prompt for each in given for prompt in prompts_of(each, parse_special, bos)]
