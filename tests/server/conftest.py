"""What tests of LangChain's clients share; of pytest, what its standard tests expect plugins to do."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest


def pytest_configure(config: pytest.Config) -> None:
    for name in ("benchmark", "vcr"):
        config.addinivalue_line("markers", f"{name}: a mark of LangChain's standard tests")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine in the event loop of the fixture `loop`."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    values: dict[str, Any] = pyfuncitem.funcargs
    wanted = inspect.signature(pyfuncitem.obj).parameters
    values["loop"].run_until_complete(pyfuncitem.obj(**{name: values[name] for name in wanted}))
    return True


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.run_until_complete(made.shutdown_asyncgens())
    made.close()


@dataclass(frozen=True)
class Transports:
    """Connections for clients that would leave their own open."""

    direct: httpx.HTTPTransport
    awaited: httpx.AsyncHTTPTransport


@pytest.fixture(scope="module")
def transports(loop: asyncio.AbstractEventLoop) -> Iterator[Transports]:
    made = Transports(httpx.HTTPTransport(), httpx.AsyncHTTPTransport())
    yield made
    made.direct.close()
    loop.run_until_complete(made.awaited.aclose())
