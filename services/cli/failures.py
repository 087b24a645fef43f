"""The message and the exit status of a command that cannot do its work."""

from __future__ import annotations

import sys
from collections.abc import Callable

from services.errors import HearthError
from services.logs import visible_lines

_CLUSTER_PACKAGES = frozenset({"celery", "kombu", "amqp", "redis", "flower", "langchain_community", "dotenv"})


def explained(cannot: str, run: Callable[[], int]) -> int:
    """Return the exit status of `run`; an error that people can mend is printed, after "Hearth cannot …"."""
    try:
        return run()
    except HearthError as error:
        return refuse(cannot, error.message)
    except OSError as error:
        return refuse(cannot, str(error))
    except ModuleNotFoundError as error:
        missing = f"There is no {error.name} in this Python"
        if error.name in _CLUSTER_PACKAGES:
            return refuse(cannot, f"{missing}, which a cluster needs. Type: ./setup.sh cluster")
        return refuse("start", f"{missing}. Type: source .venv/bin/activate, or use ./setup.sh run")
    except KeyboardInterrupt:
        return 130


def refuse(cannot: str, reason: str) -> int:
    """Print why a command cannot do its work; return the exit status."""
    print(f"Hearth cannot {cannot}: {visible_lines(reason)}", file=sys.stderr)
    return 1
