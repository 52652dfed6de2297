"""The public names and their signatures are those in `public_api.txt`.

Where a change is meant, write the file anew: python -m tests.test_public_api
"""

from collections.abc import Iterator
from pathlib import Path

from docs._surface import PACKAGES, describe, exports, members

PINNED = Path(__file__).with_name("public_api.txt")


def surface() -> Iterator[str]:
    for package in PACKAGES:
        yield f"[{package}]"
        for name, one in sorted(exports(package).items()):
            yield describe(name, one)
            if isinstance(one, type):
                yield from (f"    {text}" for text, _ in members(one))
        yield ""


def test_the_public_surface_is_as_pinned() -> None:
    pinned = PINNED.read_text(encoding="utf-8").splitlines()
    assert list(surface()) == pinned, "where this is meant: python -m tests.test_public_api"


if __name__ == "__main__":
    PINNED.write_text("\n".join(surface()) + "\n", encoding="utf-8")
