"""The tools of a chat, in OpenAI's form of today and in the older one, `functions`; and which of them may be called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from typing_extensions import override

from services.api.http.nulls import without_nulls
from services.api.http.open_body import Open
from services.api.http.request_fields import Listed, ignored_beside_tools
from services.api.openai.custom_tools import CustomFormat, ToolOfClient, function_of
from services.api.openai.messages import Name
from services.validation import at_most

MOST_TOOLS = 128
ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]


class FunctionOfTool(Open):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None

    @field_validator("parameters")
    @classmethod
    def _has_no_nulls(cls, parameters: dict[str, Any] | None) -> Any:
        return without_nulls(parameters)


class CustomOfTool(Open):
    """A custom tool: its call has one text."""

    name: ToolName
    description: str | None = None
    format: CustomFormat | None = None


class Tool(ToolOfClient):
    """A tool: a function or a custom tool. One of another type would be the server's."""

    type: Annotated[str, Field(min_length=1, max_length=128)] = "function"
    function: FunctionOfTool | None = None
    custom: CustomOfTool | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Tool:
        if self.is_own and getattr(self, self.type) is None:
            raise ValueError(f"{self.type} is missing")
        return self

    @property
    def described(self) -> FunctionOfTool:
        """The tool as the function that the model knows."""
        if self.type == "custom" and self.custom:
            custom = self.custom
            return FunctionOfTool.model_validate(function_of(custom.name, custom.description, custom.format))
        assert self.function
        return self.function


Tools = Annotated[list[Tool], Field(max_length=MOST_TOOLS), at_most(MOST_TOOLS)]
Functions = Annotated[list[FunctionOfTool], Field(max_length=MOST_TOOLS), at_most(MOST_TOOLS)]


class WithTools(Listed):
    """A body that may have tools. Those that are not the client's are left out, and named."""

    tools: Tools | None = None

    @property
    def own_functions(self) -> list[FunctionOfTool]:
        """The tools that the client runs, as the functions that the model knows."""
        return own_functions(self.tools)

    @property
    def custom_names(self) -> set[str]:
        """The names of the custom tools."""
        return {tool.custom.name for tool in self.tools or () if tool.custom and tool.type == "custom"}

    @property
    @override
    def ignored(self) -> list[str]:
        tools = self.tools or ()
        forms = ((n, tool.custom.format) for n, tool in enumerate(tools) if tool.custom)
        unkept = [f"tools.{n}.custom.format.lark" for n, form in forms if form and not form.is_kept]
        return ignored_beside_tools(self, {n: tool.type for n, tool in enumerate(tools) if not tool.is_own}, unkept)


def own_functions(tools: Sequence[Tool] | None) -> list[FunctionOfTool]:
    """Return those of the tools that the client runs, as the functions that the model knows."""
    return [tool.described for tool in tools or () if tool.is_own]


class NamedFunction(Open):
    """The name of a function."""

    name: Name


class NamedTool(Open):
    """A tool by its name: in `tool_choice`, the one that the model has to call."""

    type: Literal["function", "custom"] = "function"
    function: NamedFunction | None = None
    custom: NamedFunction | None = None

    @model_validator(mode="after")
    def _has_a_name(self) -> NamedTool:
        if getattr(self, self.type) is None:
            raise ValueError(f"{self.type} is missing")
        return self

    @property
    def name(self) -> str:
        """The tool's name."""
        named = self.custom if self.type == "custom" else self.function
        assert named
        return named.name


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
        return choice.allowed_tools.mode, [tool.name for tool in choice.allowed_tools.tools]
    if isinstance(choice, NamedTool):
        return choice.name, [choice.name]
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
