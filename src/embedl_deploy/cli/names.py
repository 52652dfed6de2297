"""Names of models for the shell to complete, read from the sources of the packages.

Importing the packages would take seconds at every press of a key.
"""

import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

_REGISTERED = re.compile(
    r"^@register_model(?:\((?:name=\"(\w+)\")?\))?\n(?:.*\n)*?def (\w+)\(", re.MULTILINE
)
_PUBLIC = re.compile(r"^__all__ = \[([^\]]*)\]", re.MULTILINE)
_CLASS = re.compile(r"\"(\w+?(?:For\w+|(?<!PreTrained)Model))\"")


def complete_model(incomplete: str) -> list[str]:
    """What a word that names a model may become; a package first, then a model of it."""
    package, colon, name = incomplete.partition(":")
    if not colon:
        return [f"{one}:" for one in _SOURCES if one.startswith(package)]
    names = _SOURCES[package]() if package in _SOURCES else iter(())
    return sorted({f"{package}:{one}" for one in names if one.startswith(name)})


def _registered(package: str) -> Iterator[str]:
    for text in _texts(package, "models/**/*.py"):
        yield from (named or function for named, function in _REGISTERED.findall(text))


def _classes() -> Iterator[str]:
    for text in _texts("transformers", "models/*/modeling_*.py"):
        for names in _PUBLIC.findall(text):
            yield from _CLASS.findall(names)


def _texts(package: str, pattern: str) -> Iterator[str]:
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).glob(pattern)):
            yield path.read_text(encoding="utf-8", errors="replace")


_SOURCES: dict[str, Callable[[], Iterator[str]]] = {
    "torchvision": lambda: _registered("torchvision"),
    "timm": lambda: _registered("timm"),
    "transformers": _classes,
}
