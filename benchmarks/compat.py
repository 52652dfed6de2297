"""Tests of `torch.compile` and of capture on other versions of torch, each in its own environment.

Run by `make compat`. A version of which the machine's package index offers no build for the CPU is
named and left out: builds for CUDA are gigabytes. `--cuda` takes those too; the tests run on the
CPU with any.
"""

import argparse
import re
import subprocess
import sys
import tomllib
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".venv-compat"
_CAPTURE = ("exported", "known", "parametrized", "stand_ins", "state")
TESTS = ("tests/quantize/test_compile.py", *(f"tests/graph/test_{one}.py" for one in _CAPTURE))
BETWEEN = "2.11.0"
"""A version on which a model was once compiled with breaks."""

_NEWEST = 4
"""How many of the newest versions are asked for until one has a build for the CPU."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests on every version; gives 1 where some fail."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("versions", nargs="*", help="versions of torch; by default three")
    parser.add_argument("--cuda", action="store_true", help="take builds for CUDA, 3 GB each")
    options = parser.parse_args(arguments)
    versions, build = options.versions, "" if options.cuda else "+cpu"
    found: dict[str, str] = {}
    for version in versions or [oldest(), BETWEEN]:
        found[version] = tried(version, build)
    for version in () if versions else newest():
        found[version] = found.get(version) or tried(version, build)
        if found[version] != _MISSING:
            break
    print("\ntorch")
    for version, result in found.items():
        print(f"  {version:10} {result}")
    return 1 if "FAILED" in found.values() else 0


_MISSING = "skipped: it is not offered here for the CPU; --cuda takes other builds"


def oldest() -> str:
    """The oldest version that the package declares."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = next(one for one in project["dependencies"] if one.startswith("torch"))
    return f"{declared.partition('>=')[2]}.0"


def newest() -> list[str]:
    """The newest versions that the package index has, and the one that runs this."""
    command = [sys.executable, "-m", "pip", "index", "versions", "torch"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603 - pip
    listed = re.search(r"Available versions: (.*)", said)
    known = listed[1].split(", ") if listed else []
    return [*known[:_NEWEST], running()]


def running() -> str:
    """The version of torch that is installed here."""
    import torch

    return str(torch.__version__).partition("+")[0]


def tried(version: str, build: str) -> str:
    """What came of a build of a version, in words."""
    print(f"… torch {version}", flush=True)
    folder = FOLDER / version
    python = [str(folder / "bin" / "python")]
    if not Path(python[0]).exists():
        venv.create(folder, with_pip=True)
    if _pip(python, "install", "--no-deps", f"torch=={version}{build}").returncode:
        return _MISSING
    needed = [f"torch=={version}{build}", "numpy", "pytest", "--editable", str(ROOT)]
    installed = _pip(python, "install", *needed)
    if installed.returncode:
        print(installed.stderr)
        return "FAILED"
    options = ["--noconftest", "-q", "-p", "no:cacheprovider"]
    run = subprocess.run([*python, "-m", "pytest", *options, *TESTS], cwd=ROOT, check=False)  # noqa: S603 - pytest
    return "FAILED" if run.returncode else "passed"


def _pip(python: Sequence[str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [*python, "-m", "pip", "--disable-pip-version-check", "--quiet", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - pip


if __name__ == "__main__":
    sys.exit(main())
