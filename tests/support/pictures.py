"""Pictures of the chat page for the documents, written while the tests run."""

from __future__ import annotations

import io

from PIL import Image, ImageChops
from playwright.sync_api import Page

from tests.support.serving import ROOT

IMAGES = ROOT / "docs" / "images"


def take_picture(page: Page, name: str) -> None:
    """Write what is to be seen into docs/images, unless that is there already but for some figures."""
    page.wait_for_timeout(300)
    shot = page.screenshot()
    IMAGES.mkdir(exist_ok=True)
    path = IMAGES / name
    assert len(shot) > 10_000
    if not path.exists() or _differ(path.read_bytes(), shot):
        path.write_bytes(shot)


def _differ(before: bytes, now: bytes) -> bool:
    old, new = Image.open(io.BytesIO(before)), Image.open(io.BytesIO(now))
    if old.size != new.size:
        return True
    difference = ImageChops.difference(old.convert("L"), new.convert("L")).point(lambda value: 255 if value > 40 else 0)
    return difference.histogram()[255] > 0.02 * old.size[0] * old.size[1]
