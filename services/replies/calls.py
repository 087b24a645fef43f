"""The calls of one reply, as the syntaxes of families read them."""

from __future__ import annotations

import secrets

from services.replies.events import CallArguments, CallBegun
from services.replies.json_scan import LenientScan
from services.replies.source import Parsing, Source, Unreadable, Waiting
from services.replies.toolset import Toolset

_NAMESPACE = "functions."


class Calls:
    """Makes the events of calls, and knows the tools. Owned by the reply's reader."""

    def __init__(self, tools: Toolset, source: Source) -> None:
        self.tools = tools
        self._source = source
        self._count = 0
        self.is_open = False
        """True from a call's beginning to the end of its arguments."""
        self.holds = False
        """True while the arguments of a call are read that is not begun yet."""

    def known_name(self) -> Waiting[str]:
        """Consume the longest name of a tool that comes next, and return it. Raises Unreadable if none does."""
        written = yield from self._source.expect(
            *(prefix + name for name in self.tools.schemas for prefix in ("", _NAMESPACE))
        )
        return self.tool_of(written)

    def tool_of(self, written: str) -> str:
        """Return the name of the tool that a model means. Raises Unreadable if there is none."""
        # Models that were trained on OpenAI's own form write the namespace in front.
        for name in (written, written.removeprefix(_NAMESPACE)):
            if name in self.tools.schemas:
                return name
        raise Unreadable

    def begin(self, name: str, call_id: str = "") -> CallBegun:
        """Return a call's beginning. Raises Unreadable if no tool has this name. `call_id` "": one is made up."""
        if name not in self.tools.schemas:
            raise Unreadable
        self._count += 1
        self.is_open = True
        return CallBegun(self._count - 1, call_id or f"call_{secrets.token_hex(12)}", name)

    def arguments(self, text: str) -> CallArguments:
        """Return a piece of the arguments of the call that was begun last."""
        return CallArguments(self._count - 1, text)

    def end(self) -> None:
        """Say that the call's arguments are whole: what comes behind and cannot be read is content by itself.

        Said again behind the call's closers, so that they are not part of that.
        """
        self.is_open = False
        self._source.record()

    def json_arguments(self) -> Parsing[None]:
        """Read arguments that are a JSON object, as the model writes it; Unreadable if something else comes."""
        if (yield from self._source.peek()) not in ("{", ""):
            raise Unreadable
        scan = LenientScan()
        while not scan.is_done:
            text = yield from self._source.json(scan)
            if text:
                yield self.arguments(text)
        self.end()
