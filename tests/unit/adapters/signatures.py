"""A check that members of a library still take the parameters with which they are called."""

from __future__ import annotations

import inspect
from collections.abc import Mapping


def check_signatures(owner: object, expected: Mapping[str, str]) -> None:
    """Compare the parameters of `owner`'s members, by name, with the expected ones; annotations do not count."""
    for name, parameters in expected.items():
        member = getattr(owner, name, None)
        assert member is not None, f"{owner} has no {name} any more"
        signature = inspect.signature(member)
        plain = [each.replace(annotation=inspect.Parameter.empty) for each in signature.parameters.values()]
        found = str(inspect.Signature(plain))
        assert found == parameters, f"{owner}.{name} now takes {found}"
