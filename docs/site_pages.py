"""Hook of MkDocs: adds the pages that are written from the code, and those that live outside docs/.

A link that leaves docs/ works on a code host but would lead nowhere on the site. README is the site's first page,
CONTRIBUTING and CHANGELOG become pages, and any other file of the repository that is linked goes into `source/`.
"""

import posixpath
import re
from pathlib import Path

from make_reference import PAGES
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
_MOVED = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is not in docs/: written pages, moved pages, and the files that pages link to."""
    linked = {
        target
        for page in files.documentation_pages()
        for link in _LINK.findall(page.content_string)
        if (target := _outside(page.src_uri, link)) is not None and target not in _MOVED
    }
    for name, write in PAGES.items():
        files.append(File.generated(config, f"reference/{name}.md", content=write()))
    for source in ("CONTRIBUTING.md", "CHANGELOG.md"):
        files.append(
            File.generated(config, _MOVED[source], content=_from_root((ROOT / source).read_text("utf-8")))
        )
    for target in sorted(linked):
        files.append(File.generated(config, f"source/{target}", abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that leave docs/ towards where `on_files` has put their targets."""

    def turned(link: re.Match[str]) -> str:
        target = _outside(page.file.src_uri, link[0])
        if target is None:
            return link[0]
        return posixpath.relpath(
            _MOVED.get(target, f"source/{target}"), posixpath.dirname(page.file.src_uri) or "."
        )

    return _LINK.sub(turned, markdown)


def _outside(page: str, link: str) -> str | None:
    """The repository's file that a page of docs/ links to, if it lies outside docs/."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    return None if path.startswith("docs/") or not (ROOT / path).is_file() else path


def _from_root(markdown: str) -> str:
    """A page of the repository's root, as if it lay in docs/."""
    return _LINK.sub(
        lambda link: link[0].removeprefix("docs/") if link[0].startswith("docs/") else f"../{link[0]}",
        markdown,
    )
