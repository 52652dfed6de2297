"""Verdicts of `check` and types of `explain` are the compiler's, over random and broken files.

`make fuzz-compiler` compiles many more of them than the tests do.
"""

import contextlib
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, shape_inference

from embedl_deploy.onnx_model import OnnxFile
from embedl_deploy.onnx_model.graph import Node, Value
from embedl_deploy.onnx_model.view import (
    COMMUTING,
    CONVOLUTIONS,
    DEQUANTIZE,
    KEEPING,
    is_constant,
    made_by,
)
from embedl_deploy.tensorrt import (
    Compilation,
    Severity,
    check_onnx,
    compile_onnx,
    explain_onnx,
)
from embedl_deploy.tensorrt.engine import process
from tests.tensorrt.rules.compiler_server import Server
from tests.tensorrt.rules.format_mutations import FORMAT_MUTATIONS, HALF_MUTATIONS
from tests.tensorrt.rules.found_cases import FOUND
from tests.tensorrt.rules.placement_mutations import PLACEMENT_MUTATIONS
from tests.tensorrt.rules.random_texts import random_text

FILES = int(os.environ.get("FUZZ_FILES", "50"))
SEEDS = st.integers(0, 2**32 - 1)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("tensorrt_rtx_bindings") is None, reason="TensorRT for RTX is not installed"
    ),
]


@pytest.fixture(scope="module", autouse=True)
def served() -> Iterator[None]:
    server = Server()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "run", server.run)
        yield
    server.close()


# --- what is known to differ --------------------------------------------------------------------


def _transposed(node: Node) -> bool:
    return node.op == "ConvTranspose"


def _factored(value: Value | None) -> Value | None:
    """What a constant factor, a sign, a magnitude or a cast is applied to."""
    maker = made_by(value, "Neg", "Abs", "Mul", "Cast")
    inputs = [] if maker is None else [one for one in maker.inputs if one is not None]
    rest = [one for one in inputs if not is_constant(one)]
    return rest[0] if len(rest) == 1 else None


def _scaled(node: Node) -> bool:
    """Whether such a factor is between a DQ and a product."""
    return any(_is_scaled(value) for value in node.inputs[:2])


def _is_scaled(value: Value | None) -> bool:
    passed = False
    while value is not None:
        if (inner := _factored(value)) is not None:
            value, passed = inner, True
        elif (maker := made_by(value, *COMMUTING)) is not None:
            value = maker.first
        elif (maker := made_by(value, "Concat")) is not None:
            return any(map(_is_scaled, maker.inputs))
        else:
            break
    return passed and made_by(value, DEQUANTIZE) is not None


def _of_microsoft(node: Node) -> bool:
    values = [*node.inputs]
    while values:
        value = values.pop()
        if value is None or (maker := value.producer) is None:
            continue
        if maker.domain == "com.microsoft":
            return True
        values += maker.inputs if maker.op in KEEPING else [_factored(value)]
    return False


KNOWN_TYPES: dict[str, Callable[[Node], bool]] = {
    "transposed convolutions: data centres are documented to have INT8 kernels (P27)": _transposed,
    "it moves a DQ across a factor, which no document says; INT8 is better than said": _scaled,
    "it takes pairs of com.microsoft, not all versions do (F02); INT8 is better": _of_microsoft,
}
"""Products whose types may differ, by the reason."""

NO_REFUSALS = {"F03", "F04", "F06", "F12"}
"""Errors of files that are built now and then.

UINT8 is read as INT8, infinity is no scale, and few products take INT4 activations.
"""

NO_BUILDS = {"F05", "P26"}
"""Warnings of files that are not built now and then.

A scale that is computed may take the compiler down; INT8 and FP8 are taken together now and then.
"""


# --- the comparison -----------------------------------------------------------------------------


def disagreements(proto: ModelProto, folder: Path) -> list[str]:
    """How check and explain differ from what the compiler did."""
    onnx.save(proto, path := folder / "model.onnx")
    made = compile_onnx(path, "rtx4090", compiler="rtx", timeout=60)
    report = check_onnx(path)
    errors = {one.rule for one in report.errors}
    if bool(errors) == made.built and not (made.built and errors <= NO_REFUSALS):
        warned = {one.rule for one in report.findings if one.severity is Severity.WARNING}
        if (not made.built and NO_BUILDS & warned) or not _is_onnx(proto):
            return []
        said = [f"{one.rule} {one.message}" for one in report.errors]
        return [f"check: {said or 'no error'}; compiler: {[one.message for one in made.errors]}"]
    return [] if errors else list(_types(path, made))


def _is_onnx(proto: ModelProto) -> bool:
    """Whether ONNX takes the types and the shapes; what is no ONNX, check need not refuse."""
    try:
        inferred = shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    except shape_inference.InferenceError:
        return False
    if any(node.domain for node in proto.graph.node):
        return True  # of what other operators give no shape is known
    values = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.initializer)
    shapes = {
        one.name: [*one.dims]
        if isinstance(one, TensorProto)
        else [size.dim_value for size in one.type.tensor_type.shape.dim]
        for one in values
    }
    convolutions = [node for node in proto.graph.node if node.op_type in CONVOLUTIONS]
    return all(_fits(node, *(shapes[name] for name in node.input[:2])) for node in convolutions)


def _fits(node: NodeProto, image: list[int], weight: list[int]) -> bool:
    """The channels of a convolution, which ONNX's inference does not look at."""
    group = next((one.i for one in node.attribute if one.name == "group"), 1)
    if node.op_type == "ConvTranspose":
        return image[1] == weight[0]
    return image[1] == weight[1] * group and weight[0] % group == 0


def _types(path: Path, made: Compilation) -> Iterator[str]:
    kernels = explain_onnx(path).kernels
    said = {name: one.dtype for one in kernels for name in one.nodes if name not in one.folded}
    nodes = {node.label: node for node in OnnxFile.open(path).view.graph}
    for one in made.products:
        known = any(applies(nodes[one.node]) for applies in KNOWN_TYPES.values())
        if one.computed and one.computed != said.get(one.node) and not known:
            yield f"{one.node}: explained as {said.get(one.node)}, compiled as {one.computed}"


def broken(seed: int) -> tuple[str, ModelProto]:
    """A random file that is broken at random, and the rule."""
    text, draw = random_text(seed), random.Random(seed)  # noqa: S311 - no secret
    half = HALF_MUTATIONS if text.dtype == TensorProto.FLOAT16 else {}
    kinds = [*(FORMAT_MUTATIONS | PLACEMENT_MUTATIONS | half).items()]
    for rule, mutations in draw.sample(kinds, len(kinds)):
        # they are written for exports, and not all fit
        with contextlib.suppress(AssertionError, IndexError, ValueError):
            found = [one for kind in mutations for one in kind(text.proto())]
            if found:
                return rule, draw.choice(found).proto
    return "", text.proto()


drawn = settings(
    max_examples=FILES // 2,
    deadline=None,
    phases=[Phase.generate],
    derandomize="FUZZ_FILES" not in os.environ,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_is_compiled_as_said(name: str, tmp_path: Path) -> None:
    assert not disagreements(FOUND[name].text.proto(), tmp_path)


@drawn
@given(seed=SEEDS)
def test_a_random_file_is_compiled_as_said(seed: int, tmp_path: Path) -> None:
    text = random_text(seed)
    assert _is_onnx(text.proto())
    found = disagreements(text.proto(), tmp_path)
    assert not found, "\n".join((*found, text.lines))


@drawn
@given(seed=SEEDS)
def test_a_broken_file_is_refused_as_said(seed: int, tmp_path: Path) -> None:
    rule, proto = broken(seed)
    found = disagreements(proto, tmp_path)
    assert not found, "\n".join((*found, rule, onnx.printer.to_text(proto.graph)))


def test_random_files_have_every_operator() -> None:
    nodes = [node for seed in range(300) for node in random_text(seed).proto().graph.node]
    found = Counter(node.op_type for node in nodes)
    assert len(found) >= 25
    assert min(found.values()) >= 5, found
