"""llama-cpp-python's JSON schema converter, an undocumented class of llama_cpp.llama_grammar (llama-cpp-python 0.3.36).

It is a port of llama.cpp's examples/json_schema_to_grammar.py. Its private methods are overridden here where its grammars
allow texts that are no JSON or do not match the schema. A test compares the members used here with the installed library.
"""

from __future__ import annotations

import json
from typing import Any

from llama_cpp import llama_grammar
from typing_extensions import override

from services.engine.llama.json_pattern import rule_of

# A character of a JSON text (RFC 8259, section 7): the library's rule lets control characters through.
_CHAR = r'[^"\\\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F])'
_ESCAPES = {"\\": r"\\", '"': r"\"", "\x7f": r"\x7F"}


class SchemaConverter(llama_grammar.SchemaConverter):  # type: ignore[misc, unused-ignore]
    """Converts one JSON schema to GBNF. The base class collects the rules while it visits the schema."""

    _rules: dict[str, str]
    _refs: dict[str, Any]

    def __init__(self) -> None:
        super().__init__(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)
        self._ref_rules: dict[str, str] = {}
        """The rules' names, by reference."""
        self._is_begun = False

    def convert(self, schema: Any) -> str:
        """GBNF for a schema, which is changed. Raises whatever exception the library runs into."""
        self.visit(self.resolve_refs(schema, "schema"), "")
        if "char" in self._rules:
            self._rules["char"] = _CHAR
        return str(self.format_grammar())

    @override
    def visit(self, schema: Any, name: str) -> Any:
        # The library takes a rule without a name for the root's, and a property's name may be empty.
        name = name or ("" if not self._is_begun else "empty")
        self._is_begun = True
        return super().visit(schema, name)

    @override
    def _format_literal(self, literal: str) -> str:
        # Backslashes in a JSON value are its own, and no escapes of the grammar.
        text = json.dumps(json.loads(literal), ensure_ascii=False)
        return '"' + "".join(_ESCAPES.get(char, char) for char in text) + '"'

    @override
    def _visit_pattern(self, pattern: str, name: str) -> Any:
        return self._add_rule(name, f'"\\"" ({rule_of(pattern)}) "\\"" space')

    @override
    def _resolve_ref(self, ref: str) -> Any:
        # The library names a reference's rule by the reference's last part, which two references may share.
        if ref not in self._ref_rules:
            self._ref_rules[ref] = f"ref-{len(self._ref_rules)}"
            self._ref_rules[ref] = self.visit(self._refs[ref], self._ref_rules[ref])
        return self._ref_rules[ref]
