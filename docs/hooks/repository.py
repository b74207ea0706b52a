"""Brings files outside docs/ into the site: the README as front page, other documents and linked sources as pages.

A page keeps the links that it has in the repository; here they are pointed at where their target is in the site.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

FRONT = "README.md"
DOCUMENTS = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md", "examples/README.md")
SOURCES = ("pipelines/*.py", "configs/*.yaml", "examples/*.py", "benchmarks/*.py")
ALONE = "---\nhide: [navigation]\n---\n\n"
"""Before a page that has no others beside it in the navigation."""

LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The files of docs/ and those that are brought in."""
    top = Path(config.docs_dir).parent
    for name in (FRONT, *DOCUMENTS):
        text = (top / name).read_text()
        files.append(File.generated(config, site_name(name), content=ALONE + text if name == FRONT else text))
    for path in sorted(path for pattern in SOURCES for path in top.glob(pattern)):
        name = path.relative_to(top).as_posix()
        language = {".py": "python", ".yaml": "yaml"}[path.suffix]
        listing = f"---\nsearch:\n  exclude: true\n---\n\n# {name}\n\n````{language}\n{path.read_text()}````\n"
        files.append(File.generated(config, site_name(name), content=listing))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The text of a page with links to files of the repository pointed at their place in the site."""
    here = page.file.src_uri
    original = repository_name(here)
    if original.endswith((".py", ".yaml")):
        return markdown

    def moved(match: re.Match[str]) -> str:
        target = os.path.normpath(PurePosixPath(original).parent / match[2])
        return f"{match[1]}{os.path.relpath(site_name(target), PurePosixPath(here).parent)}{match[3] or ''})"

    return LINK.sub(moved, markdown)


def site_name(name: str) -> str:
    """Where a file of the repository is among the pages: docs/csv.md → csv.md, configs/a.yaml → repository/…"""
    if name == FRONT:
        return "index.md"
    if name.startswith("docs/"):
        return name.removeprefix("docs/")
    return f"repository/{name}" if name.endswith(".md") else f"repository/{name}.md"


def repository_name(uri: str) -> str:
    """The file of the repository that a page was made of."""
    if uri == "index.md":
        return FRONT
    if not uri.startswith("repository/"):
        return f"docs/{uri}"
    name = uri.removeprefix("repository/")
    return name.removesuffix(".md") if name.endswith((".py.md", ".yaml.md")) else name
