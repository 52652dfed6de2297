"""What the rules say is what NVIDIA's compiler was seen to do with their files."""

import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.compiled_rules import COMPILER, Seen, digest, files, of_check, read, see
from embedl_deploy.tensorrt import check_onnx, explain_onnx
from tests.tensorrt.rules.models import Text

FILES = {(rule, place): text for rule, place, text in files()}
SEEN = {(one.rule, one.place): one for one in read()}
BROKEN = [rule for rule, place in FILES if place == "broken"]
INSTALLED = find_spec("tensorrt_rtx_bindings") is not None


def errors(text: Text) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        return [one.rule for one in check_onnx(text.save(Path(folder))).errors]


@cache
def predicted(rule: str, place: str) -> dict[str, str]:
    """Types of the products by name."""
    with tempfile.TemporaryDirectory() as folder:
        kernels = explain_onnx(FILES[rule, place].save(Path(folder))).kernels
    return {name: one.dtype for one in kernels for name in one.nodes if name not in one.folded}


def test_every_file_was_compiled_as_it_is() -> None:
    assert SEEN.keys() == FILES.keys()
    stale = [key for key, text in FILES.items() if SEEN[key].digest != digest(text)]
    assert not stale, "run make compiled"
    assert {one.compiler for one in SEEN.values()} == {COMPILER}


@pytest.mark.parametrize("rule", BROKEN)
def test_errors_are_what_the_compiler_refuses_or_reads_as_something_else(rule: str) -> None:
    broken, kept = SEEN[rule, "broken"], SEEN[rule, "kept"]
    fatal = of_check(broken, kept) in {"refused", "crash", "UINT8 read as INT8"}
    assert bool(errors(FILES[rule, "broken"])) == fatal, broken
    assert not kept.error
    assert not errors(FILES[rule, "kept"])


@pytest.mark.parametrize("key", [key for key in FILES if key[1] in {"holds", "not"}], ids=str)
def test_what_is_explained_has_errors_where_it_is_refused(key: tuple[str, str]) -> None:
    assert bool(errors(FILES[key])) == bool(SEEN[key].error), SEEN[key]


@pytest.mark.parametrize("key", [key for key in FILES if not SEEN[key].error], ids=str)
def test_products_are_explained_in_the_types_that_were_seen(key: tuple[str, str]) -> None:
    types = predicted(*key)
    for name, (stored, computed) in SEEN[key].products.items():
        if computed and not documented_otherwise(key[0], name) and stored != "UINT8":
            assert types[name] == computed, name


def documented_otherwise(rule: str, name: str) -> bool:
    """Transposed convolutions (P27), and what is after a Cast (T05): data centres differ."""
    return name.startswith("ConvTranspose") or rule == "T05"


@pytest.mark.skipif(not INSTALLED, reason="TensorRT for RTX is not installed")
@pytest.mark.parametrize("key", [("P01", "broken"), ("F15", "broken"), ("K01", "holds")], ids=str)
def test_the_compiler_still_says_so(key: tuple[str, str]) -> None:
    seen: Seen = see(*key, FILES[key])
    assert seen == SEEN[key]
