"""The tools of a response: functions and custom tools. Those that a server would run are left out, and named."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from services.api.http.nulls import without_nulls
from services.api.http.open_body import Open, Whole
from services.api.openai.custom_tools import CustomFormat, ToolOfClient, function_of
from services.api.openai.messages import Name
from services.api.openai.tool_fields import check_names
from services.validation import AnyCollection, at_most

MOST_TOOLS = 512
FILE_SEARCH = "file_search"


class ResponseTool(ToolOfClient):
    """A tool: a `function` or `custom`, which the client runs, or `file_search` in collections, which this server runs."""

    run_here = (FILE_SEARCH,)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")] | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    format: CustomFormat | None = None
    vector_store_ids: Annotated[list[AnyCollection], Field(min_length=1, max_length=20)] | None = None
    max_num_results: Annotated[int, Field(ge=1, le=50), Whole] | None = None

    @field_validator("parameters")
    @classmethod
    def _has_no_nulls(cls, parameters: dict[str, Any] | None) -> Any:
        return without_nulls(parameters)

    @model_validator(mode="after")
    def _is_whole(self) -> ResponseTool:
        if self.is_own and not self.name:
            raise ValueError("name is missing")
        if self.type == FILE_SEARCH and not self.vector_store_ids:
            raise ValueError("vector_store_ids is missing: the names of collections")
        return self

    @property
    def function(self) -> dict[str, Any]:
        """The tool as the function that the model knows."""
        if self.type == "custom":
            return function_of(str(self.name), self.description, self.format)
        given = {"description": self.description, "parameters": self.parameters}
        return {"name": self.name, **{name: value for name, value in given.items() if value is not None}}

    def echoed(self) -> dict[str, Any]:
        """Return the tool as the reply tells it."""
        if self.type in ("custom", FILE_SEARCH):
            return self.model_dump(exclude_none=True)
        return {
            "type": "function",
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
            "strict": bool(self.strict),
        }


ResponseTools = Annotated[list[ResponseTool], Field(max_length=MOST_TOOLS), at_most(MOST_TOOLS)]


class ToolName(Open):
    """A tool by its name."""

    type: Literal["function", "custom"]
    name: Name


class FileSearchChoice(Open):
    """The search in collections, which is done with every request."""

    type: Literal["file_search"]


class AllowedToolNames(Open):
    """The tools that the model may call (`auto`), or one of which it has to call (`required`)."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[ToolName], Field(min_length=1, max_length=MOST_TOOLS), at_most(MOST_TOOLS)]


ResponseToolChoice = Literal["none", "auto", "required"] | ToolName | FileSearchChoice | AllowedToolNames


def callable_tools(tools: Iterable[ResponseTool], choice: ResponseToolChoice | None) -> tuple[str, list[dict[str, Any]]]:
    """Return the choice ("none", "auto", "required" or a tool's name), and the tools that the model may call."""
    functions = [tool.function for tool in tools]
    if choice == "none":
        return choice, []
    if isinstance(choice, AllowedToolNames):
        names = [tool.name for tool in choice.tools]
        return choice.mode, _described(each for each in functions if each["name"] in names)
    # A tool that has to be called is shown among the others: they may belong to the conversation.
    if isinstance(choice, ToolName):
        return choice.name, _described(functions)
    return choice if choice == "required" else "auto", _described(functions)


def check_tools(tools: Iterable[ResponseTool], choice: ResponseToolChoice | None) -> None:
    """Raise ValueError if two tools have one name, or the choice names one that is not there, or requires one of none."""
    kinds = [(str(tool.name), tool.type) for tool in tools]
    check_names("tools", [name for name, _ in kinds])
    if choice == "required" and not kinds:
        raise ValueError("tool_choice: there are no tools to require")
    wanted = choice.tools if isinstance(choice, AllowedToolNames) else [choice] if isinstance(choice, ToolName) else []
    for each in wanted:
        if (each.name, each.type) not in kinds:
            raise ValueError(f"tool_choice: there is no {each.type} tool {each.name}")


def _described(functions: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": "function", "function": each} for each in functions]
