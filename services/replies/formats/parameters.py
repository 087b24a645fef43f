"""The parameters of a tool whose calls have each in tags of its own: which of them come together, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from services.errors import InvalidRequest
from services.replies.formats.text_schema import UnkeptSchema
from services.replies.formats.values import referred
from services.replies.formats.values_grammar import Place
from services.replies.grammar import Lark, all_unlike, json_text, repeated, unlike

# With more parameters they come in the order in which the schema declares them.
MOST_IN_ANY_ORDER = 24
_DEEPEST = 16
ANY_NAME = unlike("/[A-Za-z_][A-Za-z0-9_.-]{0,63}/")
"""The expression for the name of a member that a schema does not declare, within `all_unlike`."""
# Keywords of objects that no grammar of tags keeps to.
_UNKEPT: tuple[str, ...] = (
    "patternProperties",
    "propertyNames",
    "dependentSchemas",
    "dependencies",
    "unevaluatedProperties",
    "oneOf",
)
_UNKEPT += ("not", "if", "enum", "const")


@dataclass
class Members:
    """The members of an object that a schema allows: their names, those that have to come, and the rules between them."""

    names: list[str] = field(default_factory=list)
    required: list[str] = field(default_factory=list)
    needs: list[tuple[str, str]] = field(default_factory=list)
    """Where the first member is, the second has to be."""
    either: list[list[list[str]]] = field(default_factory=list)
    """Of each list of choices, the members of one have to come."""
    least: int = 0
    most: int | None = None
    is_open: bool = True
    """True if members that are not named may come."""

    @classmethod
    def of(cls, schema: Any, root: Any) -> Members:
        """Return the members by a schema of objects. Raises UnkeptSchema."""
        found = cls()
        found._add(schema, root, 0)
        found.names += [name for name in found.required if name not in found.names]
        return found

    def _add(self, schema: Any, root: Any, depth: int) -> None:
        if depth > _DEEPEST:
            raise UnkeptSchema("$ref", "schemas are nested too deeply")
        if schema is False:
            raise UnkeptSchema("", "nothing fits it")
        if not isinstance(schema, Mapping):
            return
        for keyword in _UNKEPT:
            if keyword in schema and schema[keyword] not in (True, {}):
                raise UnkeptSchema(keyword, "it cannot be kept to where each parameter has tags of its own")
        self.names += [name for name in _mapping(schema, "properties") if name not in self.names]
        self.required += [name for name in _names(schema, "required") if name not in self.required]
        self.needs += [(name, each) for name, needed in _mapping(schema, "dependentRequired").items() for each in needed]
        self.least = max(self.least, int(schema.get("minProperties", 0)))
        if (most := schema.get("maxProperties")) is not None:
            self.most = int(most) if self.most is None else min(int(most), self.most)
        self.is_open = self.is_open and schema.get("additionalProperties") is not False
        if isinstance(ref := schema.get("$ref"), str):
            self._add(referred(ref, root), root, depth + 1)
        for each in schema.get("allOf", ()):
            self._add(each, root, depth + 1)
        if choices := schema.get("anyOf"):
            self.either.append([self._choice(each) for each in choices])

    def _choice(self, schema: Any) -> list[str]:
        """Return the members that a choice requires; it may say nothing else."""
        others = set(schema) - {"required", "title", "description", "type"} if isinstance(schema, Mapping) else {"anyOf"}
        if others:
            raise UnkeptSchema("anyOf", "only choices of required parameters can be kept to there")
        return _names(schema, "required")

    def takes_any(self, schema: Mapping[str, Any]) -> bool:
        """Return whether members of any name come: the schema declares none, and does not say that none are allowed."""
        if self.names or not self.is_open:
            return False
        return schema.get("additionalProperties") is not None or not isinstance(schema.get("properties"), Mapping)

    def any_grammar(self, member: str, comma: str = "") -> str:
        """Return the expression for members of any name; `member` is the one of a single member, with ANY_NAME in it."""
        if self.needs or self.either:
            raise UnkeptSchema("", "rules between parameters that the schema does not declare cannot be kept to")
        return all_unlike(repeated(member, f"{comma} {member}", self.least, self.most))


def members_grammar(lark: Lark, members: Members, member: Callable[[str], str], comma: str = "") -> str:
    """Return the expression for the members of an object, with the literal `comma` between them.

    `member` makes the one of a single member. They come in any order if they are not too many, and else in the declared
    one. Raises UnkeptSchema.
    """
    if not members.names:
        return ""
    if len(members.names) <= MOST_IN_ANY_ORDER:
        return _in_any_order(lark, members, member, comma)
    if members.needs or members.either or members.least or members.most is not None:
        raise UnkeptSchema("", f"with more than {MOST_IN_ANY_ORDER} parameters, rules between them cannot be kept to")
    return _in_order(members, {name: member(name) for name in members.names}, comma)


def _in_order(members: Members, each: Mapping[str, str], comma: str) -> str:
    names = list(each)
    first = next((n for n, name in enumerate(names) if name in members.required), None)
    if first is not None:
        before = [f"({each[name]} {comma})?" for name in names[:first]]
        behind = [
            f"{comma} {each[name]}" if name in members.required else f"({comma} {each[name]})?"
            for name in names[first + 1 :]
        ]
        return " ".join([*before, each[names[first]], *behind])
    # The first of those that come has no comma before it.
    chains = (
        " ".join([each[names[n]], *(f"({comma} {each[name]})?" for name in names[n + 1 :])]) for n in range(len(names))
    )
    return f"({' | '.join(chains)})?"


def _in_any_order(lark: Lark, members: Members, member: Callable[[str], str], comma: str) -> str:
    """Return a rule with a bit for each member that has come (llguidance's docs/parametric.md)."""
    names = [*members.required, *(name for name in members.names if name not in members.required)]
    bits = {name: n for n, name in enumerate(names)}
    ends = f'"" %if {_joined("and", found)}' if (found := _conditions(members, bits)) else '""'
    limit = [] if members.most is None else [f"bit_count_lt(_, {members.most})"]
    rule = f"members_{len(lark.rules)}"
    # Taken now: the members' own rules have other names.
    lark.rules[f"{rule}::_"] = ""
    parts = []
    for name in members.names:
        condition = _joined("and", [f"bit_clear({bits[name]})", *limit])
        parts.append(f"{lark.rule('parameter', member(name))} {rule}::set_bit({bits[name]}) %if {condition}")
    if not comma:
        lark.rules[f"{rule}::_"] = "\n  | ".join([ends, *parts])
        return f"{rule}::0x0"
    lark.rules[f"{rule}::_"] = "\n  | ".join([ends, *(f"{comma} {part}" for part in parts)])
    lark.rules[f"first_{rule}::_"] = "\n  | ".join([ends, *parts])
    return f"first_{rule}::0x0"


def _conditions(members: Members, bits: Mapping[str, int]) -> list[str]:
    """Return the conditions under which no further member has to come."""
    conditions = [f"is_ones([0:{len(members.required)}])"] if members.required else []
    for name, needed in members.needs:
        if name in bits:
            conditions.append(f"or(bit_clear({bits[name]}), {_is_set(bits, needed)})")
    for choices in members.either:
        conditions.append(_joined("or", [_joined("and", [_is_set(bits, each) for each in choice]) for choice in choices]))
    if members.least:
        conditions.append(f"bit_count_ge(_, {members.least})")
    return conditions


def _is_set(bits: Mapping[str, int], name: str) -> str:
    return f"bit_set({bits[name]})" if name in bits else "not(true)"


def _joined(operator: str, conditions: list[str]) -> str:
    found = conditions[0] if conditions else "true"
    for each in conditions[1:]:
        found = f"{operator}({found}, {each})"
    return found


def place_of(tool: str, name: str) -> Place:
    """Return the place of a tool's parameter; `name` "": of the parameters that the schema does not name."""
    pointer = name.replace("~", "~0").replace("/", "~1").replace(" ", "%20").replace("\n", "%0A")
    return Place(tool, f"#/properties/{pointer}" if name else "#/additionalProperties")


def refused(place: Place, error: UnkeptSchema) -> InvalidRequest:
    """Return the error for a part of a tool's schema that cannot be kept to."""
    where = f"{place.where}/{error.keyword}" if error.keyword else place.where
    return InvalidRequest(
        f"the schema of tool {json_text(place.tool)} cannot be kept to: {where}: {error.reason}",
        param="tools",
        code="bad_schema",
    )


def _mapping(schema: Mapping[str, Any], keyword: str) -> Mapping[str, Any]:
    value = schema.get(keyword)
    return value if isinstance(value, Mapping) else {}


def _names(schema: Mapping[str, Any], keyword: str) -> list[str]:
    value = schema.get(keyword)
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []
