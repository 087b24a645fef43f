"""The members of llama-cpp-python that services/engine/llama relies on: its JSON schema converter, and its C structures."""

from __future__ import annotations

import re
from typing import Any

import llama_cpp
import pytest
from llama_cpp import llama_grammar

from services.engine.llama.llama_cpp_internals import SchemaConverter
from tests.support.serving import ROOT
from tests.unit.adapters.signatures import check_signatures

FOLDER = ROOT / "services" / "engine" / "llama"


def test_signatures() -> None:
    expected = {
        "__init__": "(self, *, prop_order, allow_fetch, dotall, raw_pattern)",
        "resolve_refs": "(self, schema, url)",
        "visit": "(self, schema, name)",
        "format_grammar": "(self)",
        "_add_rule": "(self, name, rule)",
        "_format_literal": "(self, literal)",
        "_visit_pattern": "(self, pattern, name)",
        "_resolve_ref": "(self, ref)",
    }
    check_signatures(llama_grammar.SchemaConverter, expected)


@pytest.mark.parametrize(
    ("schema", "calls"),
    [
        ({"const": 'a"\\'}, "_format_literal"),
        ({"enum": [1, 2]}, "_format_literal"),
        ({"type": "string", "pattern": "^a$"}, "_visit_pattern"),
        ({"type": "array", "items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"type": "integer"}}}, "_resolve_ref"),
        ({"type": "object", "properties": {"a": {"type": "string"}}}, "_add_rule"),
    ],
)
def test_the_library_calls_the_methods_that_are_overridden(
    schema: dict[str, Any], calls: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    original = getattr(llama_grammar.SchemaConverter, calls)

    def counting(self: Any, *arguments: Any) -> Any:
        called.append(calls)
        return original(self, *arguments)

    monkeypatch.setattr(llama_grammar.SchemaConverter, calls, counting)
    converter = llama_grammar.SchemaConverter(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)
    converter.visit(converter.resolve_refs(schema, "schema"), "")
    assert called, f"SchemaConverter calls {calls} no more"
    assert "root ::= " in converter.format_grammar()


def test_the_rules_and_references_are_kept_where_they_are_changed() -> None:
    converter = SchemaConverter()
    properties = {"a": {"$ref": "#/$defs/x"}, "b": {"type": "string"}}
    grammar = converter.convert({"type": "object", "properties": properties, "$defs": {"x": {"enum": [1]}}})
    assert list(converter._refs) == ["schema#/$defs/x"]
    assert converter._rules["char"].startswith('[^"')
    assert '\nchar ::= [^"\\\\\\x7F\\x00-\\x1F]' in f"\n{grammar}"
    assert "\nref-0 ::= " in f"\n{grammar}"


def test_structures_have_the_fields_that_are_set() -> None:
    """ctypes takes any attribute of a structure, so that a field that is gone would be set without effect."""
    source = "".join(path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.py")))
    known = {
        name for kind in ("llama_model_params", "llama_context_params") for name, *_ in getattr(llama_cpp, kind)._fields_
    }
    chained = re.findall(r"^ +((?:params\.\w+ = )+)", source, re.MULTILINE)
    used = {name for each in chained for name in re.findall(r"params\.(\w+)", each)}
    assert len(used) > 15
    assert used <= known, f"llama.cpp's parameters have no {used - known}"
    batch = set(re.findall(r"self\.native\.(\w+)", source))
    assert batch <= {name for name, *_ in llama_cpp.llama_batch._fields_}
    assert len(batch) == 6


def test_functions_and_types_are_there() -> None:
    """They are loaded from the compiled library by name, when they are first called."""
    source = "".join(path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.py")))
    used = set(re.findall(r"\bllama_cpp\.(\w+)", source)) - {"llama_grammar"}
    assert len(used) > 60
    missing = {name for name in used if not hasattr(llama_cpp, name)}
    assert not missing
