"""A file imports only from its own floor and from those below, and packages form no circle."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import embedl_deploy.errors

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
    try:
        TopologicalSorter(parts).prepare()
    except CycleError as error:
        found.append(f"circle: {' -> '.join(error.args[1])}")
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


def write(root: Path, file: str, source: str) -> None:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")
