"""What a family of models says about its own form: the tags of thoughts, and how calls are written.

How to add a family: write `formats/FAMILY.py` with a frozen dataclass that inherits `CallSyntax` (how calls are written)
and a function `def family(chat_format: ChatFormat) -> ReplyFormat | None`, which looks at `chat_format.template` (and
`tool_template`, `specials`) and returns the family's format, or None if the template is another family's. Add the function
to `FAMILIES` in `formats/__init__.py`; the first that returns a format wins, so the more particular ones go first.

- `CallSyntax.openers`: texts with which calls begin; `read` starts behind the opener that was found. `markers`: the texts
  of the syntax's other special tokens (closers, separators), which `read` wants to see; all other marks are dropped.
- `CallSyntax.read(source, calls, opener)`: a generator (services/replies/source.py has its steps). It yields
  `calls.begin(name)` once the name is known, then pieces of JSON with `calls.arguments(text)`, then calls `calls.end()`. It
  raises Unreadable if what it reads is no call: the text since the opener, or since the last `calls.end()`, becomes content
  by itself. Cut, which the source's steps raise at the end of the reply, ends the events there once a call has begun.
  Closers are optional (`source.closing`). `calls.tools` has the schemas.
- `CallSyntax.grammar(lark, tools, many, opener)`: the Lark expression for what follows an opener, `trigger` unless another
  one is given, to the end of the call, closers included; with `many`, of several calls if `read` reads several behind one
  opener (`is_list`).
- `CallSyntax.begins(tools, many)`: the texts behind which a call has surely begun, so that a grammar holds it, with what
  makes that grammar. These are the openers, unless people may write them about calls (`<tool_call>`): then more of the call
  belongs to the text, so that a sentence about tags is never taken for a call.
- A family whose replies are more than thoughts, text and calls writes a Reader of its own, and overrides
  `ReplyFormat.reader`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from services.replies.calls import Calls
from services.replies.grammar import Lark
from services.replies.source import Parsing, Source
from services.replies.toolset import Toolset

# What people write about calls: tags, and words.
_PROSE = re.compile(r"<[\w:.-]+>|\s?\w+|Action:\s*```json")
_SENTENCE = "\n\nI have thought about this for long enough, and answer now.\n"


@dataclass(frozen=True)
class ThoughtTags:
    """The texts around a model's thoughts."""

    begins: str
    ends: str
    sentence: str = _SENTENCE
    after: str = "\n\n"

    @property
    def closing(self) -> str:
        """The text that ends a thought early, in the model's own form."""
        return f"{self.sentence}{self.ends}{self.after}"


@dataclass(frozen=True)
class Begin:
    """A beginning of calls: the forms of its text, and what makes the Lark expression for what follows any of them."""

    texts: tuple[str, ...]
    rest: Callable[[Lark], str] = field(compare=False)


def is_prose(opener: str) -> bool:
    """Return whether people may write an opener in a sentence about calls."""
    return bool(_PROSE.fullmatch(opener))


@dataclass(frozen=True)
class CallSyntax:
    """How a family writes calls. Subclasses are frozen dataclasses, and say what is not as here."""

    openers: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()
    only_first: bool = False
    """True if the openers count only where nothing else was written before (since the last thought or call)."""
    is_list: bool = False
    """True if several calls stand behind one opener; else each has its own."""
    between: str = "\n"
    """The text between calls that have an opener each."""

    @property
    def trigger(self) -> str:
        """The opener that the model was taught."""
        return self.openers[0]

    def read(self, source: Source, calls: Calls, opener: str) -> Parsing[None]:
        """Read from behind the opener to the end of the call, or of all of them if it is a list."""
        raise NotImplementedError

    def grammar(self, lark: Lark, tools: Toolset, many: bool, opener: str = "") -> str:
        """Return the Lark expression for what follows an opener, which holds the call to the tools' names and schemas.

        `opener` "": `trigger`. Raises InvalidRequest, naming the tool, for a schema that cannot be kept to.
        """
        raise NotImplementedError

    def begins(self, tools: Toolset, many: bool) -> Iterator[Begin]:
        """Yield the beginnings behind which calls are held. No text of one is found within another's."""
        yield Begin(self.openers, lambda lark: self.grammar(lark, tools, many))

    def bare_pattern(self, tools: Toolset) -> str:
        """Return the regular expression of texts with which a call without an opener begins; "": there are none."""
        return ""
