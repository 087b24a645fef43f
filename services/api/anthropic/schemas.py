"""The bodies of requests of Anthropic's API: fields are honoured, or refused by name (`fields.py` lists them)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from typing_extensions import override

from services.api.anthropic.blocks import MOST_BLOCKS, MOST_MESSAGES, Block, MessageOfChat, Name
from services.api.anthropic.fields import COUNT, MESSAGES, known_fields
from services.api.http.file_fields import FileFields
from services.api.http.nulls import without_nulls
from services.api.http.open_body import Open, Whole
from services.api.http.request_fields import Listed, ignored_beside_tools
from services.validation import Effort, MemoryK, SessionId, Share, StopString, at_most

MOST_TOOLS, MOST_STOPS = 512, 64
Schema = dict[str, Any]


class ToolOfClient(Open):
    """A tool of the client's own: `input_schema` is a JSON schema. One with another `type` would be the server's."""

    type: str | None = None
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")] | None = None
    description: str | None = None
    input_schema: Schema | None = None

    @field_validator("input_schema")
    @classmethod
    def _has_no_nulls(cls, schema: Schema | None) -> Any:
        return without_nulls(schema)

    @model_validator(mode="after")
    def _is_whole(self) -> ToolOfClient:
        if self.is_own and not self.name:
            raise ValueError("name is missing")
        if self.is_own and self.input_schema is None:
            raise ValueError("input_schema is missing")
        return self

    @property
    def is_own(self) -> bool:
        """True if the client runs it, by the schema that it gives."""
        return self.type in (None, "custom")


class ToolChoice(Open):
    """Which tools the answer calls."""

    type: Literal["auto", "any", "tool", "none"]
    name: Name | None = None
    disable_parallel_tool_use: bool | None = None

    @model_validator(mode="after")
    def _names_its_tool(self) -> ToolChoice:
        if (self.type == "tool") != (self.name is not None):
            raise ValueError('name goes with the type "tool"')
        return self


class ThinkingConfig(Open):
    """The model's thinking. `display` "omitted": the reply leaves the thoughts out."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Annotated[int, Field(ge=1, le=2**31 - 1), Whole] | None = None
    display: Literal["summarized", "omitted"] | None = None


class JsonFormat(Open):
    """The form of the answer's text."""

    type: Literal["json_schema"]
    schema_: Annotated[Schema, Field(alias="schema")]


class OutputConfig(Open):
    """The effort of the model's thinking, and the form of its answer."""

    effort: Effort | None = None
    format: JsonFormat | None = None


class _Chat(Listed, FileFields):
    """The fields of a chat, which its tokens depend on."""

    model: Name | None = None
    messages: Annotated[list[MessageOfChat], Field(min_length=1, max_length=MOST_MESSAGES), at_most(MOST_MESSAGES)]
    system: Annotated[str | list[Block] | None, at_most(MOST_BLOCKS)] = None
    tools: Annotated[list[ToolOfClient] | None, Field(max_length=MOST_TOOLS), at_most(MOST_TOOLS)] = None
    tool_choice: ToolChoice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    output_format: JsonFormat | None = None

    @field_validator("system")
    @classmethod
    def _is_text(cls, system: str | list[Block] | None) -> Any:
        for block in system if isinstance(system, list) else ():
            if block.type != "text":
                raise ValueError(f"a system prompt has no blocks of the type {block.type}")
        return system

    @model_validator(mode="after")
    def _choice_fits(self) -> _Chat:
        names = [tool.name for tool in self.own_tools]
        if twice := next((name for n, name in enumerate(names) if name in names[:n]), None):
            raise ValueError(f"tools: two tools are called {twice}")
        choice = self.tool_choice
        if choice and choice.type == "any" and not names:
            raise ValueError("tool_choice: there are no tools to require")
        if choice and choice.name and choice.name not in names:
            raise ValueError(f"tool_choice: there is no tool {choice.name}")
        if self.output_format and self.output_config and self.output_config.format:
            raise ValueError("output_format: output_config.format gives the form already")
        return self

    @property
    def own_tools(self) -> list[ToolOfClient]:
        """The tools that the client runs."""
        return [tool for tool in self.tools or () if tool.is_own]

    @property
    def format(self) -> JsonFormat | None:
        """The form of the answer's text; None: any."""
        return self.output_format or (self.output_config.format if self.output_config else None)

    @property
    @override
    def ignored(self) -> list[str]:
        return ignored_beside_tools(self, {n: str(tool.type) for n, tool in enumerate(self.tools or ()) if not tool.is_own})


class MessagesRequest(_Chat):
    """The body of POST /v1/messages."""

    listed = known_fields(MESSAGES)

    max_tokens: Annotated[int, Field(ge=1, le=2**31 - 1), Whole]
    stream: bool | None = None
    stop_sequences: Annotated[list[StopString] | None, Field(max_length=MOST_STOPS), at_most(MOST_STOPS)] = None
    temperature: Annotated[float, Field(ge=0, le=5)] | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1), Whole] | None = None
    session_id: Annotated[SessionId, Whole] | None = None
    memory_k: Annotated[MemoryK, Whole] | None = None


class CountTokensRequest(_Chat):
    """The body of POST /v1/messages/count_tokens."""

    listed = known_fields(COUNT)
