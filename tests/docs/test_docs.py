"""What the pages say runs, prints what they say, and links to what is there."""

import inspect
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import typer

from docs import _site, generate
from docs._surface import PACKAGES, exports, first_line
from embedl_deploy.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
OTHERS = (ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NUMBER = re.compile(r"\d+(\.\d+)?(e[+-]\d+)?|inf")
TIES = re.compile(r"no rounded number differs|# of the numbers differ, by at most # step")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class Block:
    """Fenced code, where it begins, and what the page says it prints."""

    kind: str
    text: str
    line: int
    output: str | None = None


def blocks(page: Path) -> Iterator[Block]:
    """A `text` block right after a `python` block is what that prints."""
    text = page.read_text(encoding="utf-8")
    found = list(FENCE.finditer(text))
    for index, match in enumerate(found):
        following = found[index + 1] if index + 1 < len(found) else None
        printed = (
            following
            and following[1] == "text"
            and not text[match.end() : following.start()].strip()
        )
        line = text.count("\n", 0, match.start()) + 1
        yield Block(match[1], match[2], line, following[2] if following and printed else None)


def loose(line: str) -> str:
    """A line with a decimal fraction in it is a measurement: its numbers may differ, none too."""
    measured = re.search(r"\d\.\d", line)
    return (TIES.sub("ties", NUMBER.sub("#", line)) if measured else line).rstrip()


def lines(text: str) -> list[str]:
    return [loose(line) for line in text.strip("\n").split("\n")]


def run(page: Path, block: Block, namespace: dict[str, Any]) -> str:
    source = "\n" * block.line + block.text  # so that a traceback shows the page's line
    printed = StringIO()
    with redirect_stdout(printed):
        exec(compile(source, str(page), "exec", dont_inherit=True), namespace)  # noqa: S102
    return printed.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if "```python" in page.read_text()], ids=name_of
)
def test_code_runs_and_prints_what_the_page_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        if block.kind != "python":
            continue
        printed = run(page, block, namespace)
        if block.output is not None:
            where = f"{name_of(page)}:{block.line}"
            assert lines(printed) == lines(block.output), where


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=name_of)
def test_links_resolve(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if link.startswith(("https://", "http://")):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), link
        if anchor:
            assert anchor in anchors(file), link


def anchors(page: Path) -> set[str]:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=name_of)
def test_the_readme_leads_to_every_page(page: Path) -> None:
    assert f"(docs/{page.name})" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_generated_pages_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    stale = generate.main(["--check"])
    assert not stale, f"{capsys.readouterr().out}run `make docs`"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_in_the_reference_and_documented(package: str) -> None:
    assert f"\n::: {package}\n" in (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    told = {
        name: one
        for name, one in exports(package).items()
        if isinstance(one, type) or inspect.isfunction(one)
    }
    assert [name for name, one in told.items() if not first_line(one)] == []


def test_the_site_has_every_page_in_its_navigation() -> None:
    listed = re.findall(r"^ +- ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    added = set(_site.ADDED.values())
    assert sorted({*listed} - added) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))
    assert added - {*listed} == set()


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("see [it](../README.md#why)", "see [it](index.md#why)"),
        ("[how](CONTRIBUTING.md)", "[how](contributing.md)"),
        ("[terms](LICENSE), [code](../examples/demo/figures.py)", "terms, code"),
        ("[page](rules.md#a), ![p](page.png)", "[page](rules.md#a), ![p](page.png)"),
        ("[out](https://arxiv.org/abs/1902.08153), [in](#why)",) * 2,
    ],
)
def test_links_lead_to_pages_of_the_site(written: str, shown: str) -> None:
    assert _site.on_page_markdown(written) == shown


def commands(page: Path) -> Iterator[str]:
    """What is after a prompt, without comments; `\\` at the end continues a line."""
    for block in blocks(page):
        if block.kind == "console":
            whole = block.text.replace("\\\n", " ")
            found = re.findall(r"^\$ (.*)$", whole, re.MULTILINE)
            yield from (line.partition(" #")[0].strip() for line in found)


OURS = sorted({line for page in PAGES for line in commands(page) if line.startswith("embedl-")})


@pytest.mark.parametrize("command", OURS)
def test_the_command_line_knows_what_pages_show(command: str) -> None:
    group: Any = typer.main.get_command(app)
    words = shlex.split(command)[1:]
    with group.make_context("embedl-deploy", list(words), resilient_parsing=True) as context:
        if words[0].startswith("-"):
            known = {word for one in group.get_params(context) for word in one.opts}
            assert words[0] in known
            return
        name, chosen, rest = group.resolve_command(context, words)
        chosen.make_context(name, rest, parent=context)


MADE = sorted({line for page in PAGES for line in commands(page) if line.startswith("make ")})


@pytest.mark.parametrize("command", MADE)
def test_make_has_the_targets_that_pages_name(command: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in command.split()[1:]:
        if "=" not in target:
            assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_pages_name_no_place_of_one_machine() -> None:
    for page in (*PAGES, *OTHERS):
        assert not re.search(r"(?<![\w.])/(home|work|root|tmp|Users)/", page.read_text()), page
