"""The bodies of requests of the Responses API: fields are honoured, or refused by name (`fields.py` lists them)."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator
from typing_extensions import override

from services.api.http.nulls import without_nulls
from services.api.http.open_body import Open, Whole
from services.api.http.request_fields import Listed, ignored_beside_tools
from services.api.http.schemas import Query
from services.api.openai.messages import Name
from services.api.openai.responses.fields import COUNT, CREATE, known_fields
from services.api.openai.responses.items import Items
from services.api.openai.responses.tools import FILE_SEARCH, ResponseTool, ResponseToolChoice, ResponseTools, check_tools
from services.api.openai.sampling_fields import AnySeed, AnyStop, AnyTemperature, AnyTopK
from services.backend.types import Constraint
from services.sessions.records import parse_number
from services.validation import AnswerPenalty, Effort, MemoryK, RepeatPenalty, Share, TemplateKwargs

Include = Literal[
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
    "message.input_image.image_url",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]
_ANY_OBJECT: dict[str, Any] = {"type": "object"}
# Numbers that every client's JSON can hold.
_LARGEST = 2**53
_CONVERSATION = re.compile(r"[A-Za-z0-9_-]{1,64}")


def _is_conversation(id_: str) -> str:
    if not _CONVERSATION.fullmatch(id_):
        raise ValueError("should be an id of at most 64 letters, digits, _ and -")
    return id_


def _is_input(given: object) -> object:
    """Refuse anything but a text or a list: pydantic would name both types of the union."""
    if not isinstance(given, str | list | None):
        raise ValueError("should be a text, or a list of items")
    return given


ConversationId = Annotated[str, AfterValidator(_is_conversation)]


class ConversationOfClient(Open):
    """A conversation by its id."""

    id: ConversationId


class ReasoningConfig(Open):
    """The model's thinking. With `summary` the thoughts come as a summary, which is all of them."""

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class TextFormat(Open):
    """The form of the answer's text."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> TextFormat:
        if self.type == "json_schema" and self.schema_ is None:
            raise ValueError("schema is missing")
        if self.type != "json_schema" and self.schema_ is not None:
            raise ValueError('schema goes with the type "json_schema"')
        return self


class TextConfig(Open):
    """The text of the answer."""

    format: TextFormat | None = None


class Responding(Listed):
    """The fields on which a response's prompt depends."""

    model: Name | None = None
    input: Annotated[str | Items | None, BeforeValidator(_is_input)] = None
    instructions: str | None = None
    previous_response_id: Name | None = None
    conversation: ConversationId | ConversationOfClient | None = None
    tools: ResponseTools | None = None
    tool_choice: ResponseToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningConfig | None = None
    text: TextConfig | None = None
    truncation: Literal["auto", "disabled"] | None = None
    chat_template_kwargs: TemplateKwargs | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Responding:
        check_tools(self.own_tools, self.tool_choice)
        if self.conversation is not None and self.previous_response_id is not None:
            raise ValueError("previous_response_id: the conversation says what comes before")
        if not self.input and not self.instructions and self.previous_response_id is None:
            raise ValueError("input is missing")
        return self

    @property
    def own_tools(self) -> list[ResponseTool]:
        """The tools that the client runs."""
        return [tool for tool in self.tools or () if tool.is_own]

    @property
    def collections(self) -> tuple[str, ...]:
        """The names of the collections that are searched."""
        if self.tool_choice == "none":
            return ()
        searches = (tool.vector_store_ids or () for tool in self.tools or () if tool.type == FILE_SEARCH)
        return tuple(dict.fromkeys(name for names in searches for name in names))

    @property
    def most_passages(self) -> int | None:
        """The most passages that are found in them; None: as usual."""
        return next((tool.max_num_results for tool in self.tools or () if tool.max_num_results), None)

    @property
    def conversation_id(self) -> str | None:
        """The conversation's id; None: it belongs to none."""
        return self.conversation.id if isinstance(self.conversation, ConversationOfClient) else self.conversation

    @property
    def session_id(self) -> int | None:
        """The number of the conversation's session: the one that its id is, else one by the id's digest."""
        id_ = self.conversation_id
        if id_ is None:
            return None
        number = parse_number(id_.removeprefix("conv_"))
        digest = hashlib.sha256(id_.encode()).digest()
        return int.from_bytes(digest[:8], "big") % _LARGEST if number is None else number

    @property
    def constraint(self) -> Constraint | None:
        """The form that the answer has to have."""
        form = self.text.format if self.text else None
        if form is None or form.type == "text":
            return None
        return Constraint("json_schema", json.dumps(without_nulls(form.schema_) or _ANY_OBJECT))

    @property
    @override
    def ignored(self) -> list[str]:
        tools = list(enumerate(self.tools or ()))
        unkept = [f"tools.{n}.format.lark" for n, tool in tools if tool.format and not tool.format.is_kept]
        return ignored_beside_tools(self, {n: tool.type for n, tool in tools if tool.is_left_out}, unkept)


class CreateResponse(Responding):
    """The body of POST /v1/responses."""

    listed = known_fields(CREATE)

    stream: bool | None = None
    background: bool | None = None
    store: bool | None = None
    include: list[Include] | None = None
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
    ] = Field(default_factory=dict)
    max_output_tokens: Annotated[int, Field(ge=1, le=2**31 - 1), Whole] | None = None
    temperature: AnyTemperature | None = None
    top_p: Share | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), Whole] | None = None
    top_k: AnyTopK | None = None
    min_p: Share | None = None
    seed: AnySeed | None = None
    stop: AnyStop = None
    presence_penalty: AnswerPenalty | None = None
    frequency_penalty: AnswerPenalty | None = None
    repeat_penalty: RepeatPenalty | None = None
    memory_k: Annotated[MemoryK, Whole] | None = None

    @field_validator("metadata", mode="before")
    @classmethod
    def _is_there(cls, given: Any) -> Any:
        return {} if given is None else given

    @model_validator(mode="after")
    def _can_be_kept(self) -> CreateResponse:
        if self.background and self.store is False:
            raise ValueError("background: a response in the background is stored; leave store out")
        if self.background and self.stream:
            raise ValueError("background: a response in the background is not streamed: ask for it by its id")
        if self.memory_k is not None and self.conversation is None:
            raise ValueError("memory_k: only a conversation has exchanges to count")
        return self

    @property
    def n_top(self) -> int | None:
        """The number of likeliest tokens that are reported at each position; None: no logprobs at all."""
        if "message.output_text.logprobs" in (self.include or ()):
            return self.top_logprobs or 0
        return self.top_logprobs or None


class CountInputTokens(Responding):
    """The body of POST /v1/responses/input_tokens."""

    listed = known_fields(COUNT)


class StoredQuery(Query):
    """The query of GET /v1/responses/ID."""

    stream: Annotated[str, Field(description="A stored response is not streamed.")] = ""
    starting_after: Annotated[str, Field(description="A stored response is not streamed.")] = ""


class ItemsQuery(Query):
    """The part of a response's input that is listed: `limit` items, from the last one on unless `order` is `asc`."""

    limit: Annotated[int, Field(ge=1, le=100), BeforeValidator(int)] = 20
    order: Literal["asc", "desc"] = "desc"
    after: str = ""
