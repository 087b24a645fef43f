"""Chat templates rewritten so that each operation pays, where Jinja computes it without asking its environment."""

from __future__ import annotations

from typing import Any

import jinja2
from jinja2 import nodes, pass_context
from jinja2.runtime import Context
from jinja2.visitor import NodeTransformer

from services.prompts.filters import meter_of

# Filters whose names no template can write.
_PAID, _WEIGHED, _MADE, _JOINED = "paid step", "weighed operand", "made value", "joined text"
# The bytes of a step, of a list or dict, of each of its entries, and of a macro.
_STEP, _BOX, _PLACE, _MACRO = 1, 64, 24, 1024


class Metering(NodeTransformer):
    """Rewrites a template's tree. Loops and macros pay for each run of their bodies, and for the texts in these."""

    def __init__(self) -> None:
        self._n_buffers = 0
        """The number of blocks around a node whose text becomes a value."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        """Pay for each run, and for each entry that the loop's condition passes over."""
        self._with_cost(node, is_buffer=node.recursive)
        if node.test is not None:
            node.test = nodes.And(_paid(_STEP, node.lineno), node.test, lineno=node.lineno)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802
        """Pay for each call."""
        return self._with_cost(node, is_buffer=True)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802
        """Pay for each call."""
        return self._with_cost(node, is_buffer=True)

    def visit_Block(self, node: nodes.Block) -> nodes.Node:  # noqa: N802
        """Pay for each call, as `self` has a method that writes it."""
        return self._with_cost(node, is_buffer=True)

    def visit_AssignBlock(self, node: nodes.AssignBlock) -> nodes.Node:  # noqa: N802
        """Note that the text within becomes a value."""
        return self._buffered(node)

    def visit_FilterBlock(self, node: nodes.FilterBlock) -> nodes.Node:  # noqa: N802
        """Note that the text within becomes a value."""
        return self._buffered(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        """Pay for `~`."""
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), _JOINED)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        """Pay for a slice; other subscripts ask the environment."""
        self.generic_visit(node)
        return _filtered(node, _MADE) if isinstance(node.arg, nodes.Slice) else node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:  # noqa: N802
        """Weigh a dict's key, of which Python computes a hash."""
        self.generic_visit(node)
        node.key = _weighed(node.key)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        """Weigh the operands, unless one of two is a constant, which ends the comparison soon."""
        self.generic_visit(node)
        is_search = any(operand.op in ("in", "notin") for operand in node.ops)
        plain = [_is_plain(each) for each in (node.expr, *(operand.expr for operand in node.ops))]
        if len(node.ops) > 1 or is_search or not any(plain):
            node.expr = _weighed(node.expr)
            for operand in node.ops:
                operand.expr = _weighed(operand.expr)
        return node

    def visit_ScopedEvalContextModifier(self, node: nodes.Node) -> nodes.Node:  # noqa: N802
        """Refuse `autoescape`, which makes another text of each value."""
        raise jinja2.TemplateSyntaxError("chat templates have no autoescape", node.lineno)

    def _with_cost(self, node: Any, is_buffer: bool = False) -> nodes.Node:
        if is_buffer:
            self._buffered(node)
        else:
            self.generic_visit(node)
        cost = _cost(node.body, self._n_buffers > 0 or is_buffer)
        node.body.insert(0, nodes.ExprStmt(_paid(cost, node.lineno), lineno=node.lineno))
        made: nodes.Node = node
        return made

    def _buffered(self, node: nodes.Node) -> nodes.Node:
        self._n_buffers += 1
        self.generic_visit(node)
        self._n_buffers -= 1
        return node


@pass_context
def _pay(context: Context, n_bytes: int) -> bool:
    meter_of(context).pay(n_bytes)
    return True


@pass_context
def _weigh(context: Context, value: Any) -> Any:
    meter_of(context).weigh(value)
    return value


@pass_context
def _make(context: Context, value: Any) -> Any:
    meter_of(context).made(value)
    return value


@pass_context
def _join(context: Context, parts: list[Any]) -> str:
    meter = meter_of(context)
    for part in parts:
        meter.weigh(part)
    text = "".join([part if type(part) is str else str(part) for part in parts])
    meter.made(text)
    return text


# The filters that rewritten templates need.
FILTERS = {_PAID: _pay, _WEIGHED: _weigh, _MADE: _make, _JOINED: _join}


def _filtered(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _paid(n_bytes: int, lineno: int) -> nodes.Filter:
    return _filtered(nodes.Const(n_bytes, lineno=lineno), _PAID)


def _weighed(node: nodes.Expr) -> nodes.Expr:
    return node if _is_plain(node) else _filtered(node, _WEIGHED)


def _is_plain(node: nodes.Expr) -> bool:
    """Return whether a value is a constant, or a list of some."""
    parts = node.items if isinstance(node, nodes.List | nodes.Tuple) else [node]
    return all(isinstance(part, nodes.Const) for part in parts)


def _cost(body: list[nodes.Node], is_buffered: bool) -> int:
    """The bytes that one run of a body may make by itself; loops and macros within it pay for themselves."""
    total, left = _STEP, [*body]
    while left:
        node = left.pop()
        if isinstance(node, nodes.List | nodes.Tuple | nodes.Dict):
            total += _BOX + _PLACE * len(node.items)
        elif is_buffered and isinstance(node, nodes.TemplateData | nodes.Const):
            text = node.data if isinstance(node, nodes.TemplateData) else node.value
            total += 4 * len(text) if isinstance(text, str) else 0
        total += _MACRO * isinstance(node, nodes.Macro | nodes.CallBlock)
        if not isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock):
            left += node.iter_child_nodes()
    return total
