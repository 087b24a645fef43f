"""The tools of a chat, in OpenAI's form of today and in the older one, `functions`; and which of them may be called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from services.api.http.nulls import without_nulls
from services.api.http.open_body import Open
from services.api.openai.messages import Name
from services.validation import at_most

MOST_TOOLS = 128


class FunctionOfTool(Open):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None

    @field_validator("parameters")
    @classmethod
    def _has_no_nulls(cls, parameters: dict[str, Any] | None) -> Any:
        return without_nulls(parameters)


class Tool(Open):
    """A tool: a function, the only kind that is honoured."""

    type: str = "function"
    function: FunctionOfTool

    @field_validator("type")
    @classmethod
    def _is_function(cls, kind: str) -> str:
        if kind != "function":
            raise ValueError(f'should be "function": this server has no tools of the type {kind[:64]!r}')
        return kind


Tools = Annotated[list[Tool], Field(max_length=MOST_TOOLS), at_most(MOST_TOOLS)]
Functions = Annotated[list[FunctionOfTool], Field(max_length=MOST_TOOLS), at_most(MOST_TOOLS)]


class NamedFunction(Open):
    """The name of a function."""

    name: Name


class NamedTool(Open):
    """A tool by its name: in `tool_choice`, the one that the model has to call."""

    type: Literal["function"] = "function"
    function: NamedFunction


class AllowedTools(Open):
    """The tools that the model may call (`auto`), or one of which it has to call (`required`)."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=MOST_TOOLS), at_most(MOST_TOOLS)]


class AllowedToolsChoice(Open):
    """A choice of tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


ToolChoice = Literal["none", "auto", "required", "any"] | NamedTool | AllowedToolsChoice
FunctionChoice = Literal["none", "auto"] | NamedFunction


def chosen(choice: ToolChoice | FunctionChoice | None) -> tuple[str, list[str]]:
    """Return "none", "auto", "required" or a tool's name, and the names of the tools that may be called; []: all."""
    if isinstance(choice, AllowedToolsChoice):
        return choice.allowed_tools.mode, [tool.function.name for tool in choice.allowed_tools.tools]
    if isinstance(choice, NamedTool):
        return choice.function.name, [choice.function.name]
    if isinstance(choice, NamedFunction):
        return choice.name, [choice.name]
    return {"any": "required", None: "auto"}.get(choice, choice or "auto"), []


def check_choice(field: str, choice: ToolChoice | FunctionChoice | None, names: Sequence[str]) -> None:
    """Raise ValueError if the choice of `field` names a tool that is not there, or requires one of none."""
    wish, wanted = chosen(choice)
    if wish == "required" and not names:
        raise ValueError(f"{field}: there are no tools to require")
    if missing := next((name for name in wanted if name not in names), None):
        raise ValueError(f"{field}: there is no tool {missing}")


def check_names(field: str, names: Sequence[str]) -> None:
    """Raise ValueError if two tools have one name."""
    if twice := next((name for name, count in Counter(names).items() if count > 1), None):
        raise ValueError(f"{field}: two tools are called {twice}")
