"""What `make site` does beside mkdocs: the README becomes the front page, and nothing is left out.

mkdocs calls these functions; see `hooks` in `mkdocs.yml`.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from docs._surface import PACKAGES, exports

ROOT = Path(__file__).parent.parent
ADDED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages of the site by the file of the repository that they are."""

_INSIDE = re.compile(r"\]\(docs/([^)\s]+)\)")
_ABOVE = re.compile(r"\[([^\]]*)\]\((?:\.\./)?((?:[\w.-]+/)*[\w.-]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that do not lie in `docs/`."""
    for source, target in ADDED.items():
        text = _INSIDE.sub(r"](\1)", (ROOT / source).read_text(encoding="utf-8"))
        files.append(File.generated(config, target, content=text))
    return files


def on_page_markdown(markdown: str, **_parts: Any) -> str:
    """Links to the added pages lead there; what the site does not have is left as text."""
    return _ABOVE.sub(_moved, markdown)


def _moved(link: re.Match[str]) -> str:
    words, target, anchor = link[1], link[2], link[3] or ""
    if target in ADDED:
        return f"[{words}]({ADDED[target]}{anchor})"
    beside = (ROOT / "docs" / target).exists() or target in ADDED.values()
    return link[0] if beside else words


def on_post_build(config: MkDocsConfig) -> None:
    """Fail where a public name is not in the reference."""
    page = Path(config.site_dir, "reference", "index.html").read_text(encoding="utf-8")
    there = set(re.findall(r'id="([^"]+)"', page))
    names = {f"{package}.{name}" for package in PACKAGES for name in exports(package)}
    if missing := sorted(names - there):
        raise PluginError(f"{len(missing)} public names are not in the reference: {missing[:5]}")
