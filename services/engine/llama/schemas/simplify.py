"""A client's JSON schema, written in the part of the language that llguidance keeps to exactly.

What fits the simplified schema fits the client's; the other way round it may be narrower, as where a schema says nothing
about further properties: a model that may write any of them does not end. A keyword that cannot be kept to is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from typing_extensions import override

from services.engine.llama.schemas import arrays, objects
from services.engine.llama.schemas.alternatives import Alternatives
from services.engine.llama.schemas.endless import without_endless
from services.engine.llama.schemas.errors import SchemaError, inside
from services.engine.llama.schemas.evaluated import Evaluation
from services.engine.llama.schemas.keywords import (
    ARRAY_KEYWORDS,
    KEYWORDS,
    OBJECT_KEYWORDS,
    is_equal,
    key_of,
    listed,
    type_of,
    types_of,
)
from services.engine.llama.schemas.merging import check_joined
from services.engine.llama.schemas.mode import Mode, Subschemas
from services.engine.llama.schemas.negation import Negation
from services.engine.llama.schemas.openness import Openness, bare
from services.engine.llama.schemas.references import References, base_of
from services.engine.llama.schemas.scalars import check_literal, numeric, textual
from services.engine.llama.schemas.unique import check_unique
from services.patterns.effort import FOR_A_SCHEMA, Effort

LARGEST_SCHEMA = 2**20
"""The most characters of a schema's JSON text."""
MOST_PARTS = 20_000
"""The most schemas that one schema may come to."""
ROOT = "#"

_REFUSED = {"$dynamicRef", "$recursiveRef"}
_BESIDE = ("$ref", "allOf", "anyOf", "oneOf", "if", "not")
_HOLDING: tuple[str, ...] = (
    "properties",
    "items",
    "prefixItems",
    "anyOf",
    "additionalProperties",
    "required",
    "patternProperties",
)
_HOLDING += ("uniqueItems", "minProperties", "maxProperties")
_OLD_DRAFT = re.compile(r"json-schema\.org/draft-0[3-7]/")
_STRUCTURAL = (*OBJECT_KEYWORDS, *ARRAY_KEYWORDS)
_NUMERIC = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "format")
_TEXTUAL = ("minLength", "maxLength", "pattern", "format")


class _Part(NamedTuple):
    """A schema that holds beside others, and its place; `is_choice`: one of the schemas in its `anyOf` holds."""

    where: str
    schema: Any
    is_choice: bool = False


@dataclass(frozen=True)
class Simplified:
    """A schema for llguidance. `schema` may hold `uniqueItems`, which llguidance does not know: `text` has it left out."""

    schema: Any
    text: str
    is_watched: bool
    """True if names or items have to be compared while they are written: see `JsonWatch`."""


def simplified(source: str, check: Callable[[dict[str, Any]], str] | None = None) -> Simplified:
    """Return the simplified form of a schema, given as JSON text. Raises SchemaError.

    `check` returns what is wrong with a simplified schema, or "": it is called for each one that is not made of others, so
    that the error names its place.
    """
    if len(source) > LARGEST_SCHEMA:
        raise SchemaError(ROOT, f"it is larger than {LARGEST_SCHEMA} characters")
    try:
        document = _read(source)
        schema = without_endless(Simplifier(document, check).whole())
        check_joined(schema)
        check_unique(schema)
        stripped, is_watched = _for_grammar(schema)
        return Simplified(schema, json.dumps(stripped, ensure_ascii=False, allow_nan=False), is_watched)
    except RecursionError:
        raise SchemaError(ROOT, "it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise SchemaError(ROOT, f"it is no JSON: {error}") from None


class Simplifier(Subschemas):
    """Simplifies one document's schema."""

    def __init__(self, document: Any, check: Callable[[dict[str, Any]], str] | None = None) -> None:
        self._document = document
        self._check = check
        self.references = References(document)
        self.effort = Effort(FOR_A_SCHEMA)
        self.negation = Negation(self.references, self.effort)
        self._evaluation = Evaluation(self.references)
        self._alternatives = Alternatives(self.references, self.negation)
        self._names: dict[tuple[int, Mode], str] = {}
        self._definitions: dict[str, Any] = {}
        self._n_parts = 0

    def whole(self) -> dict[str, Any]:
        """Return the simplified schema of the document, with its definitions in `$defs`."""
        root = self.schema(self._document, ROOT, "", "whole")
        return {"$defs": self._definitions, "allOf": [root]}

    @override
    def schema(self, schema: Any, where: str, base: str, mode: Mode) -> Any:
        """Return a simplified schema. Raises SchemaError."""
        self._n_parts += 1
        if self._n_parts > MOST_PARTS:
            raise SchemaError(where, f"it comes to more than {MOST_PARTS} schemas")
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, Mapping):
            raise SchemaError(where, "a schema should be an object, true or false")
        for keyword in _REFUSED & schema.keys():
            raise SchemaError(inside(where, keyword), "dynamic references cannot be kept to")
        base = base_of(schema, base)
        if schema.get("nullable") is True:
            return self._nullable(schema, where, base, mode)
        said = [keyword for keyword in schema if keyword in KEYWORDS]
        if said == ["$ref"]:
            return self.named(schema["$ref"], inside(where, "$ref"), base, mode)
        if said == ["anyOf"]:
            return self._choice(listed(schema, "anyOf", where), inside(where, "anyOf"), base, mode)
        return self._joined(schema, where, base, mode)

    def _joined(self, schema: Mapping[str, Any], where: str, base: str, mode: Mode) -> Any:
        """A schema's plain keywords and the schemas that hold beside them, as one."""
        types = types_of(schema, where)
        beside = list(self._beside(schema, types, where, base))
        inner, closing = self._modes(schema, beside, where, base, mode)
        plain, further = self._plain(schema, types, where, base, inner if beside else mode)
        parts = [self._part(part, base, inner) for part in beside] + further
        if self._check:
            self._check_alone(plain, schema, where)
        if "anyOf" in plain:
            parts.append({"anyOf": plain.pop("anyOf")})
        parts = [part for part in [*parts, *closing] if part is not True]
        if False in parts:
            return False
        if not plain:
            return True if not parts else parts[0] if len(parts) == 1 else {"allOf": parts}
        if not parts:
            return plain
        # Properties are written in the order in which they stand here.
        is_ahead = next((keyword in _BESIDE for keyword in schema if keyword in (*_BESIDE, "properties")), False)
        return {"allOf": parts, **plain} if is_ahead else {**plain, "allOf": parts}

    def _check_alone(self, plain: dict[str, Any], schema: Mapping[str, Any], where: str) -> None:
        """Raise SchemaError, naming the keyword, for keywords that `_check` refuses."""
        kept = {keyword: value for keyword, value in plain.items() if keyword not in _HOLDING}
        if "patternProperties" in plain:
            kept["patternProperties"] = dict.fromkeys(plain["patternProperties"], True)
        assert self._check is not None
        for keyword, value in (*kept.items(), ("", None)):
            if reason := self._check({keyword: value} if keyword else kept):
                said = "format" if keyword == "pattern" and "pattern" not in schema else keyword
                raise SchemaError(inside(where, said) if said else where, _in_words(keyword, reason))

    def _part(self, part: _Part, base: str, mode: Mode) -> Any:
        if part.is_choice:
            return self._choice(part.schema["anyOf"], part.where, base, mode)
        return self.schema(part.schema, part.where, base, mode)

    def _choice(self, options: list[Any], where: str, base: str, mode: Mode) -> Any:
        found = [self.schema(each, inside(where, n), base, mode) for n, each in enumerate(options)]
        kept = [each for each in found if each is not False]
        return True if True in kept else False if not kept else kept[0] if len(kept) == 1 else {"anyOf": kept}

    def named(self, reference: Any, where: str, base: str, mode: Mode) -> dict[str, Any]:
        """Return a reference to the simplified form of what `reference` names."""
        target = self.references.find(reference, base, where)
        key = id(target.schema), mode
        if key not in self._names:
            self._names[key] = name = f"d{len(self._names)}"
            self._definitions[name] = True
            self._definitions[name] = self.schema(target.schema, where, target.base, mode)
        return {"$ref": f"#/$defs/{self._names[key]}"}

    def _nullable(self, schema: Mapping[str, Any], where: str, base: str, mode: Mode) -> Any:
        """OpenAPI 3.0's `nullable`: null fits too, unless there is a list of values without it."""
        bare = {name: value for name, value in schema.items() if name != "nullable"}
        values = [*listed(bare, "enum", where), *([bare["const"]] if "const" in bare else [])]
        if values and None not in values:
            return self.schema(bare, where, base, mode)
        if None in values:
            bare["enum"] = [value for value in values if value is not None]
            bare.pop("const", None)
            if not bare["enum"]:
                return {"type": "null"}
        return {"anyOf": [self.schema(bare, where, base, mode), {"type": "null"}]}

    def _beside(self, schema: Mapping[str, Any], types: list[str] | None, where: str, base: str) -> Iterator[_Part]:
        """The schemas that hold beside the plain keywords, in the order of their own keywords."""
        for keyword in schema:
            here = inside(where, keyword)
            if keyword == "$ref":
                yield _Part(where, {"$ref": schema[keyword]})
            elif keyword == "allOf":
                yield from (_Part(inside(here, n), each) for n, each in enumerate(listed(schema, keyword, where)))
            elif keyword == "anyOf":
                yield _Part(here, {"anyOf": listed(schema, keyword, where)}, is_choice=True)
            elif keyword == "oneOf":
                options = self._alternatives.separated(listed(schema, keyword, where), here, base)
                yield _Part(here, {"anyOf": options}, is_choice=True)
            elif keyword == "not":
                yield _Part(here, self.negation.of(schema[keyword], here, base))
            elif keyword == "if" and ("then" in schema or "else" in schema):
                yield _Part(here, self._conditional(schema, where, base), is_choice=True)
        yield from (_Part(where, each) for each in objects.dependent(schema, types, where))
        yield from (_Part(where, each) for each in self._evaluation.unevaluated(schema, where, base))

    def _conditional(self, schema: Mapping[str, Any], where: str, base: str) -> dict[str, Any]:
        then = {"allOf": [schema["if"], schema.get("then", True)]}
        other = {"allOf": [self.negation.of(schema["if"], inside(where, "if"), base), schema.get("else", True)]}
        return {"anyOf": [then, other]}

    def _modes(
        self, schema: Mapping[str, Any], beside: list[_Part], where: str, base: str, mode: Mode
    ) -> tuple[Mode, list[Any]]:
        """The mode of the schemas that hold beside each other within a schema; and one that closes all of them."""
        is_alone = len(beside) == 1 and not any(keyword in schema for keyword in _STRUCTURAL)
        if not beside or is_alone or mode == "open":
            return mode, []
        closing = self._evaluation.closing(schema, where, base) if mode == "whole" else None
        are_apart = self._evaluation.are_apart([schema, *(part.schema for part in beside)], where, base)
        return "part" if are_apart else "open", [] if closing is None else [closing]

    def _plain(
        self, schema: Mapping[str, Any], types: list[str] | None, where: str, base: str, mode: Mode
    ) -> tuple[dict[str, Any], list[Any]]:
        """The keywords that llguidance knows, and further schemas that hold beside them."""
        plain: dict[str, Any] = {}
        beside: list[Any] = []
        if any(keyword in schema for keyword in _NUMERIC) and _may_be(types, "number", "integer"):
            plain |= numeric(schema, types, where)
        if any(keyword in schema for keyword in _TEXTUAL) and _may_be(types, "string"):
            kept, beside = textual(schema, where, self.effort)
            plain |= kept
        plain |= arrays.plain(self, schema, types, where, base, mode)
        plain |= objects.plain(self, schema, types, where, base, mode)
        if types:
            plain["type"] = types[0] if len(types) == 1 else types
        if "const" in schema or "enum" in schema:
            plain["enum"] = self._values(schema, types, where)
        return plain, beside

    def _values(self, schema: Mapping[str, Any], types: list[str] | None, where: str) -> list[Any]:
        here = inside(where, "enum")
        values = [check_literal(value, inside(here, n)) for n, value in enumerate(listed(schema, "enum", where))]
        if "const" in schema:
            here = inside(where, "const")
            only = check_literal(schema["const"], here)
            values = [only] if "enum" not in schema or any(is_equal(only, value) for value in values) else []
        if types is not None:
            values = [value for value in values if _is_of(value, types)]
        if not values:
            raise SchemaError(here, "nothing fits it")
        return list({key_of(value): value for value in values}.values())


def _read(source: str) -> Any:
    document = json.loads(source)
    if isinstance(document, Mapping) and _OLD_DRAFT.search(str(document.get("$schema", ""))):
        # Up to draft 7 nothing counts beside a reference; only a base URI there would change what it refers to.
        return json.loads(source, object_hook=_without_id)
    return document


def _without_id(schema: dict[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in schema.items() if "$ref" not in schema or name not in ("$id", "id")}


def _in_words(keyword: str, reason: str) -> str:
    if keyword == "patternProperties" and "disjoint" in reason:
        return "two of its patterns may fit the same name, which cannot be kept to"
    return reason


def _may_be(types: list[str] | None, *names: str) -> bool:
    return types is None or any(name in types for name in names)


def _is_of(value: Any, types: list[str]) -> bool:
    name = type_of(value)
    return name in types or (name == "number" and "integer" in types and value == int(value))


def _for_grammar(schema: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """A simplified schema without `uniqueItems`; and whether its names or items have to be watched."""
    stripped = bare(schema)
    return stripped, stripped != schema or Openness(schema).is_open
