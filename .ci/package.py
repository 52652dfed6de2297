"""Build wheel and sdist, install the wheel in a clean environment, and try each extra.

The environment first has nothing but the wheel, and then sees the packages of this one, which are
what the extras ask for. Nothing is downloaded.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from importlib.metadata import PathDistribution, packages_distributions
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PAGE = "from embedl_deploy.report import report; report('page.html', figures=[('a', 'b')])"
ORIGIN = "import embedl_deploy; print(embedl_deploy.__file__, embedl_deploy.__version__)"


def main() -> None:
    """Do it; a failure ends with an error that says what is wrong."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = built(folder)
        environment = folder / "clean"
        run([sys.executable, "-m", "venv", "--without-pip", environment])
        python = environment / "bin" / "python"
        pip: list[str | Path] = [
            sys.executable,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "--python",
            python,
        ]
        run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel])
        without_packages(python, folder)
        with_packages(python, environment, folder, extras_of(wheel))
    print("wheel and sdist are sound")


def built(folder: Path) -> Path:
    """The wheel, which is built from the sdist, and that from a copy without earlier builds."""
    copy = folder / "copy"
    tracked = run(["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard"])
    for name in tracked.splitlines():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", copy])
    (wheel,) = (folder / "dist").glob("*.whl")
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    listed = [name for name in tracked.splitlines() if name.startswith("src/")]
    sources = {one.removeprefix("src/") for one in listed}
    missing(sources - set(zipfile.ZipFile(wheel).namelist()), wheel)
    with tarfile.open(sdist) as archive:
        inside = {one.partition("/")[2] for one in archive.getnames()}
    missing({*listed, "README.md", "LICENSE", "pyproject.toml"} - inside, sdist)
    return wheel


def missing(names: Iterable[str], file: Path) -> None:
    """Fail where files are missing."""
    if found := sorted(names):
        sys.exit(f"{file.name} lacks {', '.join(found)}")


def without_packages(python: Path, folder: Path) -> None:
    """The wheel alone: it imports, and what is missing is named with its extra."""
    origin = run([python, "-I", "-c", ORIGIN], folder)
    if str(folder / "clean") not in origin:
        sys.exit(f"the wheel is not what was imported: {origin}")
    command = started([python.parent / "embedl-deploy", "check", "model.onnx"])
    if not command.returncode or "embedl_deploy[cli]" not in command.stderr:
        sys.exit(f"without its packages the command says {command.stderr or command.stdout!r}")


def extras_of(wheel: Path) -> dict[str, list[str]]:
    """The distributions that each extra asks for on this machine."""
    (name,) = (one for one in zipfile.ZipFile(wheel).namelist() if one.endswith("METADATA"))
    found = PathDistribution(zipfile.Path(wheel, name.rpartition("/")[0] + "/"))
    wanted = [Requirement(one) for one in found.requires or []]
    return {
        extra: [
            one.name
            for one in wanted
            if one.marker and one.marker.evaluate({"extra": extra}) and not one.marker.evaluate()
        ]
        for extra in found.metadata.get_all("Provides-Extra", [])
        if extra != "all"
    }


def with_packages(
    python: Path, environment: Path, folder: Path, extras: dict[str, list[str]]
) -> None:
    """Every package of every extra imports, and wheel and data files work with them."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    beside = environment / "lib" / version / "site-packages" / "packages.pth"
    beside.write_text(sysconfig.get_paths()["purelib"], encoding="utf-8")
    modules = {
        key: one for one, names in packages_distributions().items() for key in map(plain, names)
    }
    for extra, names in extras.items():
        lines = "; ".join(f"import {modules[plain(name)]}" for name in names)
        first = "from embedl_deploy.cli.torchvision_ops import import_torchvision as i; i(); "
        images = extra in {"zoo", "dev"}  # they import torchvision
        run([python, "-I", "-c", (first if images else "") + lines], folder)
        print(f"{extra}: {', '.join(names) or 'nothing on this machine'}")
    run([python, "-I", "-c", PAGE], folder)
    run([python.parent / "embedl-deploy", "--version"], folder)


def plain(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def run(command: list[str | Path], folder: Path | None = None) -> str:
    """What a command prints; its errors and the end of the script where it fails."""
    done = started(command, folder)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def started(
    command: list[str | Path], folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """A command's end; it sees no packages by way of `PYTHONPATH`."""
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        command, cwd=folder, env=clean, capture_output=True, text=True, check=False
    )


if __name__ == "__main__":
    main()
