"""The access to an endpoint: the key that it needs, and its audited actions. The guard is given a record for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from auth.identity import Scope

Need = Scope | Literal["public", "any key", "master key"]
# Actions on keys and models: each has a line in the audit log, and a limit.
Action = Literal["mint", "change", "revoke", "rotate", "switch", "unload", "pull", "delete"]

PUBLIC: Final = "public"
ANY_KEY: Final = "any key"
MASTER_KEY: Final = "master key"


@dataclass(frozen=True, kw_only=True)
class Access:
    """The key that an endpoint needs, and its audited actions."""

    needs: Need
    """A scope that the key must have, any key, the master key, or no key at all (public)."""
    key_in_body: bool = False
    """True if clients may send the key in the body, as `token`."""
    audited: Mapping[str, Action] = field(default_factory=dict)
    """The action of each HTTP method that is audited."""


# A path without a route needs a key all the same: then it is a 404.
NO_ROUTE = Access(needs=ANY_KEY)
# An endpoint that the table of routes does not have.
UNDECLARED = Access(needs=MASTER_KEY)


def access_of(endpoint: str | None, declared: Mapping[str, Access]) -> Access:
    """Return the access to an endpoint by its name; None stands for a path without a route."""
    return NO_ROUTE if endpoint is None else declared.get(endpoint, UNDECLARED)
