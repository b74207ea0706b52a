"""The documentation site: it builds without a warning, every link holds, and the reference has all of the code."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
import yaml

import mlclf
from mlclf.cli import app
from mlclf.config.explanations import known_settings
from mlclf.data.features.roles import ROLES
from mlclf.decisions.metrics import confusion
from mlclf.decisions.objectives.table import OBJECTIVES
from mlclf.run_folder import FITTED, UNLISTED

TOP = Path(__file__).parents[1]
DOCS = TOP / "docs"
TABLES: tuple[dict[str, Any], ...] = (confusion.DECISION_METRICS, OBJECTIVES, ROLES)


class Page(HTMLParser):
    """The links, anchors and text of a page of the site."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors.add(values.get("id", ""))
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        self.loaded += [values[name] for name in ("src", "href") if name in values and tag != "a"]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """The pages of the site, built with --strict, in which a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=TOP, capture_output=True, text=True, check=False, env=os.environ | QUIET)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return {path.relative_to(folder): Page(path) for path in sorted(folder.rglob("*.html"))}


QUIET = {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.mark.slow  # the site takes 10 s to build
def test_every_link_holds(site: dict[Path, Page]) -> None:
    pages = {path: page for path, page in site.items() if path.name != "404.html"}
    assert len(pages) >= 30
    broken, seen = [], 0
    for path, page in pages.items():
        for link in page.links:
            target, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            seen += 1
            found = pages.get(Path(os.path.normpath(path.parent / target)) if target else path)
            if found is None or (anchor and anchor not in found.anchors):
                broken.append((str(path), link))
    assert seen >= 1_000
    assert broken == []


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere(site: dict[Path, Page]) -> None:
    loaded = {link for page in site.values() for link in page.loaded}
    assert len(loaded) >= 3
    assert [link for link in loaded if re.match(r"(https?:)?//", link)] == []


@pytest.mark.slow
def test_every_command_and_option_is_in_the_reference(site: dict[Path, Page]) -> None:
    page = site[Path("reference/commands.html")]
    written = (DOCS / "reference" / "commands.md").read_text()
    group: Any = typer.main.get_command(app)
    assert len(group.commands) >= 11
    for name, command in group.commands.items():
        assert name in page.anchors
        assert f"`mlclf {name} " in written or f"`mlclf {name}`" in written
        section = page.text.split(f"mlclf {name}¶")[1].split("¶")[0]
        options = [option for one in command.params for option in one.opts if option.startswith("-")]
        assert [option for option in options if option not in section] == []
        assert [one.help for one in command.params if one.help not in re.sub(r"\s+", " ", section)] == []


@pytest.mark.slow
def test_every_setting_is_in_the_reference(site: dict[Path, Page]) -> None:
    names = [".".join(path) for path in known_settings()]
    text = site[Path("reference/settings.html")].text
    assert len(names) >= 35
    assert [name for name in names if not re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", text)] == []


@pytest.mark.slow
def test_every_public_name_is_in_the_reference(site: dict[Path, Page]) -> None:
    page = site[Path("reference/python.html")]
    names = [name for name in mlclf.__all__ if not name.startswith("__")]
    assert len(names) >= 20
    assert [name for name in names if f"mlclf.{name}" not in page.anchors] == []


def test_public_docstrings_say_the_result_in_their_first_line() -> None:
    documented = {}
    for name in (name for name in mlclf.__all__ if not name.startswith("__")):
        value = getattr(mlclf, name)
        documented[name] = inspect.getdoc(value) or ""
        if inspect.isclass(value):
            own = {part: found for part, found in vars(value).items() if not part.startswith("_")}
            methods = (part for part, found in own.items() if isinstance(found, FunctionType | classmethod | property))
            documented |= {f"{name}.{part}": inspect.getdoc(getattr(value, part)) or "" for part in methods}
    assert len(documented) >= 40
    first = {name: text.partition("\n\n")[0] for name, text in documented.items()}
    assert [name for name, text in first.items() if "\n" in text or not text.endswith(".")] == []


def test_every_page_is_in_the_navigation() -> None:
    named = set(re.findall(r"[\w/]+\.md", (TOP / "mkdocs.yml").read_text()))
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert len(pages) >= 20
    assert pages - named == set()


def test_files_and_metrics_are_in_the_page_on_formats(tmp_path: Path) -> None:
    text = (DOCS / "reference" / "formats.md").read_text()
    random = np.random.default_rng(0)
    scores = random.random((200, 2)).astype(np.float32)
    labels = random.random((200, 2)) < scores
    table = {f"score_{k}": scores[:, k] for k in range(2)} | {str(k): labels[:, k] for k in range(2)}
    pq.write_table(pa.table(table), tmp_path / "scores.parquet")
    metrics = mlclf.evaluate_scores(tmp_path / "scores.parquet", score_kind="probability")
    names = [*FITTED, *UNLISTED, *keys_of(metrics)]
    assert len(names) >= 50
    assert [name for name in names if not re.search(rf"\b{re.escape(name)}\b", text)] == []
    json.dumps(metrics)


def keys_of(document: dict[str, Any]) -> Iterator[str]:
    """The keys of a document and of what is in it, but for names of labels."""
    for key, value in document.items():
        if not key.isdigit():
            yield key
        if isinstance(value, dict):
            yield from keys_of(value)


@pytest.mark.parametrize(("page", "names"), [("guarantees.md", OBJECTIVES), ("roles.md", ROLES)])
def test_every_kind_has_a_row_on_its_page(page: str, names: dict[str, Any]) -> None:
    rows = [line for line in (DOCS / page).read_text().splitlines() if line.startswith("|")]
    assert len(names) >= 6
    assert [name for name in names if not re.search(rf"`{name}\b", "\n".join(rows))] == []


def test_sources_that_pages_name_exist() -> None:
    pages = [TOP / "CONTRIBUTING.md", *DOCS.rglob("*.md")]
    named = {name for page in pages for name in re.findall(r"`((?:mlclf|tests)/[\w/.]*)`", page.read_text())}
    assert len(named) >= 20
    assert [name for name in sorted(named) if not (TOP / name).exists()] == []


@pytest.fixture
def tables() -> Iterator[None]:
    """The tables that the pages for developers add lines to, as they were afterwards."""
    kept = [(table, dict(table)) for table in TABLES]
    yield
    for table, lines in kept:
        table.clear()
        table.update(lines)


@pytest.mark.slow
@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("name", sorted(path.stem for path in (DOCS / "developers").glob("*.md")))
def test_a_page_for_developers_can_be_followed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", (DOCS / "developers" / f"{name}.md").read_text(), re.M | re.S)
    assert len(blocks) >= 3
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, f"{name}.md", "exec", dont_inherit=True), names)


def test_the_door_names_commands_that_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (TOP / "Makefile").read_text(), re.MULTILINE))
    hooks = yaml.safe_load((TOP / ".pre-commit-config.yaml").read_text())["repos"]
    entries = [hook["entry"].split() for repo in hooks for hook in repo["hooks"]]
    assert {repo["repo"] for repo in hooks} == {"local"}
    assert {"lint", "types"} <= {words[1] for words in entries if words[0] == "make"} <= targets
    assert all((TOP / words[-1]).exists() for words in entries if words[0] != "make")
    jobs = yaml.safe_load((TOP / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    assert "bash .ci/run" in [step.get("run") for step in steps]
    assert (TOP / ".ci" / "run").exists()
    container = json.loads((TOP / ".devcontainer" / "devcontainer.json").read_text())
    assert set(container["postCreateCommand"].split()[1:]) <= targets
    for template in (TOP / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        assert yaml.safe_load(template.read_text())
    mentioned = re.findall(r"make ([a-z ]+)`", (TOP / ".github" / "pull_request_template.md").read_text())
    assert mentioned
    assert {word for words in mentioned for word in words.split()} <= targets
