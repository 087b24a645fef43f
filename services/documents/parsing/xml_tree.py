"""XML of archives, parsed without entities, documents of others, or the network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from services.documents.parsing import failures


def parse_xml(data: bytes) -> Any:
    """Return the root element of lxml's. Raises Unprocessable if the bytes are no XML, or have a DTD of their own."""
    from lxml import etree

    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(data, parser)
    except (etree.LxmlError, ValueError) as error:
        raise failures.damaged(f"the file is damaged: a part of it is no XML ({_reason(error)})") from error
    refuse_entities(root)
    return root


def refuse_entities(root: Any) -> None:
    """Raise Unprocessable if the XML of this root declares entities: none of these formats does, but bombs do."""
    dtd = root.getroottree().docinfo.internalDTD
    if dtd is not None and any(True for _ in dtd.iterentities()):
        raise failures.damaged("the file declares XML entities, which no such document has")


def local_name(element: Any) -> str:
    """Return the name of an element without its namespace; "" for comments and the like."""
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def attribute(element: Any, name: str) -> str:
    """Return the attribute of this local name in any namespace, or ""."""
    return next((value for key, value in element.attrib.items() if key.rpartition("}")[2] == name), "")


def _reason(error: Exception) -> str:
    # lxml adds where it was, as "<string>, line 1, column 5".
    return str(error).partition(" (<string>")[0][:200]


def outermost(element: Any, name: str) -> Iterator[Any]:
    """Yield the elements of a local name below another one, in their order, and none that stand within one of these."""
    stack = list(reversed(element))
    while stack:
        each = stack.pop()
        if local_name(each) == name:
            yield each
        else:
            stack.extend(reversed(each))
