"""Chromium without a window, for tests that look at a page as a reader does.

The fixture `chromium` gives a `Browser`; the tests that use it are skipped by name where no Chromium is installed
(Debian: `apt install chromium`; elsewhere XRAYGEN_CHROMIUM names it).
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import ConsoleMessage, Page, Request, sync_playwright

WIDE, PHONE = 1440, 360
"""Widths in CSS pixels that every page is looked at in."""

_HEIGHT = 900
_GRAVE = ("serious", "critical")


def find_chromium() -> str | None:
    """The program, or None where there is none."""
    return os.environ.get("XRAYGEN_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@dataclass
class Visit:
    """One page that is open, and what it did that a page must not do."""

    page: Page
    home: str
    """Files below this URL may be asked for."""
    faults: list[str] = field(default_factory=list)
    """Errors and warnings on the console, exceptions, and requests to anything but the page's own files."""

    def serious(self) -> list[str]:
        """Accessibility faults that axe-core calls serious or critical, one line each."""
        found = Axe().run(self.page).response["violations"]
        return [
            f"{fault['id']}: {fault['help']} ({node['html'][:120]})"
            for fault in found
            if fault["impact"] in _GRAVE
            for node in fault["nodes"]
        ]

    def unseen(self, selector: str) -> list[str]:
        """What matches and cannot be seen: of no size, not loaded, or not within the window's width."""
        return list(
            self.page.eval_on_selector_all(
                selector,
                """elements => elements.filter(element => {
                    const box = element.getBoundingClientRect();
                    const drawn = element.tagName !== "IMG" || (element.complete && element.naturalWidth > 0);
                    return !element.checkVisibility() || !drawn || box.width < 20 || box.height < 20
                        || box.left < 0 || box.right > document.documentElement.clientWidth + 1;
                }).map(element => element.outerHTML.slice(0, 120))""",
            )
        )

    def is_wider_than_the_window(self) -> bool:
        """Whether the page as a whole scrolls sideways."""
        return bool(
            self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        )

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """Write a screenshot as PNG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path, full_page=whole)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"console: {message.text}")

    def _see(self, request: Request) -> None:
        if not request.url.startswith(("data:", "blob:", self.home)):
            self.faults.append(f"request: {request.url}")


class Browser:
    """Chromium, open as long as it is used in a `with` block."""

    def __init__(self, program: str) -> None:
        self._playwright = sync_playwright().start()
        sandbox = [] if os.geteuid() else ["--no-sandbox"]  # Chromium refuses to sandbox what root runs
        self._chromium = self._playwright.chromium.launch(executable_path=program, args=sandbox)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._chromium.close()
        self._playwright.stop()

    @contextmanager
    def visit(
        self,
        file: Path,
        *,
        width: int = WIDE,
        scheme: Literal["light", "dark"] = "light",
        media: Literal["screen", "print"] = "screen",
        home: Path | None = None,
    ) -> Iterator[Visit]:
        """Open a file as a page.

        Args:
            file: The page.
            width: Of the window, in CSS pixels.
            scheme: What the reader prefers.
            media: Screen, or paper.
            home: Folder whose files the page may ask for; by default only itself.

        Yields:
            The page, once it is loaded.
        """
        context = self._chromium.new_context(
            viewport={"width": width, "height": _HEIGHT}, color_scheme=scheme
        )
        try:
            visit = Visit(context.new_page(), (home or file).absolute().as_uri())
            visit.page.on("console", visit._hear)
            visit.page.on("pageerror", lambda error: visit.faults.append(f"exception: {error.message}"))
            visit.page.on("request", visit._see)
            visit.page.emulate_media(media=media, color_scheme=scheme)
            visit.page.goto(file.absolute().as_uri(), wait_until="load")
            yield visit
        finally:
            context.close()
