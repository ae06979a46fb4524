"""A real headless Chromium for the tests that open pages, and what must hold of every page that is opened."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PHONE, DESKTOP = 390, 1280
MISSING = "There is no chromium on this machine: apt-get install chromium."


def chromium() -> str | None:
    """Where Debian's Chromium is, or None."""
    return shutil.which("chromium")


@contextmanager
def started() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, file: Path, *, width: int = DESKTOP, dark: bool = False) -> Iterator[Page]:
    """The page in a window; fails for a word on the console, an error, or a request to anywhere."""
    said: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
    page.on("console", lambda message: said.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
    own = (file.as_uri(), "data:")
    page.on("request", lambda request: None if request.url.startswith(own) else said.append(f"request: {request.url}"))
    page.goto(file.as_uri())
    yield page
    assert said == []
    page.close()


def violations(page: Page) -> list[str]:
    """What axe-core finds, with everything that is folded away opened."""
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    found = Axe().run(page).response["violations"]
    return [f"{rule['id']}: {node['html'][:200]}" for rule in found for node in rule["nodes"]]
