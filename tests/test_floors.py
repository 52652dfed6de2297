"""A file imports only from its own floor and from those below.

Packages form no circle, nor do the folders and files inside a package.
"""

import ast
from collections.abc import Collection, Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import embedl_deploy.errors
from embedl_deploy import modules

LIBRARY = "embedl_deploy"
ROOT = Path(embedl_deploy.errors.__file__).parent
FLOORS = {
    "errors": 0,
    "table": 0,
    "batches": 1,
    "graph": 1,
    "modules": 1,
    "onnx_model": 1,
    "patterns": 1,
    "conversions": 2,
    "rewrite": 2,
    "target": 2,
    "quantize": 3,
    "tensorrt": 3,
    "default": 4,
    "export": 4,
    "report": 4,
    "tuning": 4,
    "api": 5,
    "cli": 5,
    "__init__": 5,
    "__main__": 5,
}


def part_of(module: str) -> str:
    """`embedl_deploy.graph.ops` belongs to the part `graph`."""
    names = module.split(".")
    return names[1] if len(names) > 1 else "__init__"


def module_of(path: Path, root: Path) -> str:
    names = path.relative_to(root).with_suffix("").parts
    return ".".join((LIBRARY, *names)).removesuffix(".__init__")


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def import_nodes(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """All imports below a node, those inside functions too, without those for types only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and is_type_checking(child.test):
            for other in child.orelse:
                yield from import_nodes(ast.Module([other], []))
        else:
            yield from import_nodes(child)


def base_of(node: ast.ImportFrom, path: Path, root: Path) -> str:
    if not node.level:
        return node.module or ""
    package = module_of(path.parent / "__init__.py", root).split(".")
    above = package[: len(package) - node.level + 1]
    return ".".join([*above, node.module] if node.module else above)


def imported_by(path: Path, root: Path) -> set[str]:
    """The modules of the library that a file imports, in full."""
    found: set[str] = set()
    for node in import_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
            continue
        base = base_of(node, path, root)
        # `from embedl_deploy import graph` names a part, `from embedl_deploy import transform` none
        known = (alias.name in FLOORS for alias in node.names)
        whole = base == LIBRARY and all(known)
        found.update({f"{base}.{alias.name}" for alias in node.names} if whole else {base})
    return {name for name in found if name.split(".")[0] == LIBRARY}


def graph_of(root: Path) -> dict[str, set[str]]:
    """Which parts each part imports, itself left out."""
    parts: dict[str, set[str]] = {}
    for path in sorted(root.rglob("*.py")):
        part = part_of(module_of(path, root))
        targets = {part_of(module) for module in imported_by(path, root)}
        parts.setdefault(part, set()).update(targets - {part})
    return parts


def files_of(root: Path, *, types: bool) -> dict[str, set[str]]:
    """Which files each file imports, with those for types alone or without."""
    paths = {module_of(path, root): path for path in sorted(root.rglob("*.py"))}
    found = {}
    for module, path in paths.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = ast.walk(tree) if types else import_nodes(tree)
        found[module] = known_to(nodes, path, root, paths) - {module}
    return found


def known_to(nodes: Iterable[ast.AST], path: Path, root: Path, paths: Collection[str]) -> set[str]:
    """The files of `paths` that a file imports; `from package import file` is that file."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = base_of(node, path, root)
            names = [f"{base}.{alias.name}" for alias in node.names]
            found.update(name if name in paths else base for name in names)
    return found.intersection(paths)


def rooms_of(files: Mapping[str, set[str]], package: str) -> dict[str, set[str]]:
    """Which folders and files of a package each of them imports."""
    rooms: dict[str, set[str]] = {}
    for module, targets in files.items():
        if room := room_of(module, package):
            others = {room_of(target, package) for target in targets} - {room, None}
            rooms.setdefault(room, set()).update(filter(None, others))
    return rooms


def room_of(module: str, package: str) -> str | None:
    inside = module.startswith(f"{package}.")
    return module.removeprefix(f"{package}.").split(".")[0] if inside else None


def circle(graph: Mapping[str, set[str]]) -> str | None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return " -> ".join(error.args[1])
    return None


def circles(root: Path) -> list[str]:
    """Circles of files, and of the folders and files in each package.

    Inside a package imports for types count too. Between packages they do not: a target holds a
    `QuantConfig`, which asks a model for its target.
    """
    files = files_of(root, types=True)
    packages = {module.rpartition(".")[0] for module in files} - {"", LIBRARY}
    rooms = (rooms_of(files, package) for package in sorted(packages))
    graphs = [files_of(root, types=False), *rooms]
    return [found for graph in graphs if (found := circle(graph))]


def faults(parts: dict[str, set[str]]) -> list[str]:
    found = [f"{part} has no floor" for part in parts if part not in FLOORS]
    found += [
        f"{part} imports {target}, which is above it"
        for part, targets in parts.items()
        for target in sorted(targets)
        if FLOORS.get(target, 0) > FLOORS.get(part, 0)
    ]
    if "tensorrt" in parts.get("quantize", ()):
        found.append("quantize imports tensorrt")
    if around := circle(parts):
        found.append(f"circle: {around}")
    return found


def test_the_library_keeps_its_floors() -> None:
    assert faults(graph_of(ROOT)) == []


@pytest.mark.parametrize(
    ("file", "source", "fault"),
    [
        ("graph/a.py", "import embedl_deploy.rewrite", "graph imports rewrite"),
        ("graph/a.py", "def f():\n    from embedl_deploy.rewrite.plan import x", "graph imports"),
        ("graph/deep/a.py", "from ...rewrite import plan", "graph imports rewrite"),
        ("graph/a.py", "from embedl_deploy import rewrite", "graph imports rewrite"),
        ("graph/a.py", "from embedl_deploy import transform", "graph imports __init__"),
        ("quantize/a.py", "from embedl_deploy.tensorrt import x", "quantize imports tensorrt"),
        ("graph/a.py", "import embedl_deploy.patterns", "circle"),
        ("attic.py", "", "attic has no floor"),
    ],
)
def test_a_fault_is_found(tmp_path: Path, file: str, source: str, fault: str) -> None:
    write(tmp_path, "patterns/b.py", "from embedl_deploy.graph import x")
    write(tmp_path, file, source)
    assert any(found.startswith(fault) for found in faults(graph_of(tmp_path)))


@pytest.mark.parametrize(
    "source",
    [
        "import torch\nfrom embedl_deploy.errors import LoadError",
        "from . import ops\nfrom .ops import x",
        "if TYPE_CHECKING:\n    from embedl_deploy.rewrite import Plan",
    ],
)
def test_what_is_allowed_is_no_fault(tmp_path: Path, source: str) -> None:
    write(tmp_path, "patterns/b.py", "from embedl_deploy.graph import x")
    write(tmp_path, "graph/a.py", source)
    assert faults(graph_of(tmp_path)) == []


def test_files_and_folders_form_no_circle() -> None:
    assert circles(ROOT) == []


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        (
            ("graph/a.py", "from embedl_deploy.graph.b import x"),
            ("graph/b.py", "def f():\n    from embedl_deploy.graph import a"),
            ["embedl_deploy.graph.a", "embedl_deploy.graph.b"],
        ),
        (
            ("graph/a.py", "if TYPE_CHECKING:\n    from .b import x"),
            ("graph/b.py", "from . import a"),
            ["a", "b"],
        ),
        (
            ("graph/room/a.py", "from embedl_deploy.graph.flat import x"),
            ("graph/flat.py", "from embedl_deploy.graph.room.b import x"),
            ["room", "flat"],
        ),
    ],
)
def test_a_circle_is_found(
    tmp_path: Path, one: tuple[str, str], other: tuple[str, str], found: list[str]
) -> None:
    for file in ("graph/__init__.py", "graph/room/b.py"):
        write(tmp_path, file, "")
    write(tmp_path, *one)
    assert circles(tmp_path) == []
    write(tmp_path, *other)
    assert set(circles(tmp_path)[0].split(" -> ")) == set(found)


@pytest.mark.parametrize("part", ["quantize", "export"])
def test_passes_ask_the_contract_and_name_no_fused_module(part: str) -> None:
    fused = {one for one in modules.__all__ if one.startswith("Fused")} - {"FusedModule"}
    assert len(fused) > 12
    for path in (ROOT / part).rglob("*.py"):
        tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        named = {one.id for one in tree if isinstance(one, ast.Name)}
        assert not named & fused, path


def write(root: Path, file: str, source: str) -> None:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")
