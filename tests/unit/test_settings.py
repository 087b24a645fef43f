from __future__ import annotations

from pathlib import Path

import pytest

from services.settings import Settings, read_settings


def test_flags_come_before_the_environment_and_that_before_the_defaults() -> None:
    settings = read_settings({"port": "1"}, {"HEARTH_PORT": "2", "HEARTH_THREADS": "9", "HEARTH_DATA": "/tmp"})
    assert (settings.port, settings.threads, settings.host, settings.data) == (1, 9, "127.0.0.1", Path("/tmp"))
    assert read_settings({}, {}) == Settings()


@pytest.mark.parametrize(
    ("flags", "environ", "says"),
    [
        ({"port": "x"}, {}, "--port should be a whole number, not 'x'"),
        ({}, {"HEARTH_THREADS": "x"}, "HEARTH_THREADS should be"),
        ({"port": "70000"}, {}, "the port should be from 0 to 65535"),
        ({"threads": "1"}, {}, "threads should be 2 or more"),
        ({"reserve": "-1"}, {}, "reserve should be 0 or more"),
        ({"log_level": "LOUD"}, {}, "the log level should be one of"),
    ],
)
def test_a_wrong_value_is_named(flags: dict[str, str | None], environ: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_settings(flags, environ)
