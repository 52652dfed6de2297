"""What became of the products of a file: convolutions, matrix products and attention."""

import enum
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from embedl_deploy.onnx_model.graph import Node
from embedl_deploy.onnx_model.view import WEIGHTED, View, dequantizer
from embedl_deploy.tensorrt.engine.layers import Layer, LayerTensor, types_of
from embedl_deploy.tensorrt.prediction.macs import multiplies, multiply_accumulates
from embedl_deploy.tensorrt.prediction.types import compute_type
from embedl_deploy.tensorrt.rules.attention import attentions

_HEAVY = re.compile(r"correlation|conv|gemm|matmul|fusion|cask|mha", re.IGNORECASE)
_GENERATED = frozenset({"kgen", "runtime_fusion"})
_MULTIPLIES = re.compile(r"Fc|Conv|Sum")
_CAST_FIRST = re.compile(r"_myl_\w*?Cast\w*?(?:Fc|Conv|Sum)")
_WIDEST = ("FP32", "BF16", "FP16")
_NARROW = ("INT8", "FP8")


class Fate(enum.StrEnum):
    """What became of a product.

    One layer computes it in the type that was simulated; one does together with other products;
    several do; it is computed in a wider type than was simulated; or no layer names it.
    """

    KEPT = "kept"
    MERGED = "merged"
    SPLIT = "split"
    LOST = "lost"
    UNSEEN = "not named"


@dataclass(frozen=True)
class Product:
    """A convolution or matrix product of a file, and the layers that compute it.

    Attributes:
        node: Its name; of one without, what it makes.
        op: Its type.
        simulated: The type that the file says it computes in, such as INT8.
        computed: The type that the layers compute in; empty where none names it.
        fate: What became of it.
        layers: Names of the layers.
        macs: Multiply-accumulates; None where shapes are not known.
        reason: Of a loss.
    """

    node: str
    op: str
    simulated: str
    computed: str
    fate: Fate
    layers: tuple[str, ...]
    macs: int | None
    reason: str = ""


@dataclass(frozen=True)
class CompiledAttention:
    """An attention of a file.

    Attributes:
        node: Name of its softmax.
        reads: Types that its kernel reads; none where it is not one kernel.
    """

    node: str
    reads: tuple[str, ...]


def products_of(view: View, layers: Iterable[Layer]) -> tuple[Product, ...]:
    """All products of a file in order."""
    by_node = _by_node(view, layers)
    nodes = [node for node in view.graph if node.op in WEIGHTED and not node.domain]
    computing = {node.label: _computing(by_node[node.label]) for node in nodes}
    shared = _counts(computing.values())
    return tuple(_product(node, computing[node.label], by_node, shared) for node in nodes)


def attentions_of(view: View, layers: Iterable[Layer]) -> tuple[CompiledAttention, ...]:
    """All attentions of a file in order."""
    by_node = _by_node(view, [one for one in layers if one.is_attention])
    return tuple(
        CompiledAttention(one.softmax.label, types_of(t for k in kernels for t in k.inputs))
        for one in attentions(view)
        for kernels in [by_node[one.scores.label]]
    )


def uncounted_of(view: View) -> tuple[str, ...]:
    """Operators that multiply, and that no product counts: others than products, open sizes."""
    return tuple(
        node.label
        for node in view.graph
        if multiplies(node) and (node.op not in WEIGHTED or multiply_accumulates(node) is None)
    )


def counted_layers(
    layers: Iterable[Layer], products: Iterable[Product], uncounted: Iterable[str]
) -> tuple[Layer, ...]:
    """Layers with their multiply-accumulates; those of a split product in equal parts."""
    found: dict[str, list[Product]] = defaultdict(list)
    for one in products:
        for name in one.layers:
            found[name].append(one)
    left = frozenset(uncounted)
    return tuple(
        _counted(one, found[one.name]) if one.name in found else _uncounted(one, left)
        for one in layers
    )


def _counted(layer: Layer, products: Sequence[Product]) -> Layer:
    counts = [None if one.macs is None else one.macs // len(one.layers) for one in products]
    known = [one for one in counts if one is not None]
    macs = sum(known) if len(known) == len(counts) else None
    return replace(layer, macs=macs, computes=products[0].computed)


def _uncounted(layer: Layer, left: frozenset[str]) -> Layer:
    """A layer of no product: it may compute one of these operators, of which few are named."""
    named = not layer.nodes or any(one.removeprefix("node_of_") in left for one in layer.nodes)
    multiplying = left and named and layer.is_kernel and _computing([layer])
    return replace(layer, macs=None) if multiplying else layer


def _by_node(view: View, layers: Iterable[Layer]) -> dict[str, list[Layer]]:
    """Kernels by the operators that they name."""
    known = {node.label for node in view.graph}
    found: dict[str, list[Layer]] = defaultdict(list)
    for layer in layers:
        if not layer.is_kernel or layer.is_reformat:
            continue
        own = layer.name.rpartition("_myl")[0].split("+")
        for name in dict.fromkeys((*layer.nodes, *own)):
            # the parser calls an operator without a name after what it makes
            found[name if name in known else name.removeprefix("node_of_")].append(layer)
    return found


def _computing(naming: Sequence[Layer]) -> list[Layer]:
    """Of the layers that name a product, those that multiply."""
    heavy = [one for one in naming if _HEAVY.search(f"{one.kind} {one.name.rpartition('/')[2]}")]
    if heavy:
        return [one for one in heavy if one.is_attention] or heavy
    return [one for one in naming if one.kind not in _GENERATED or _MULTIPLIES.search(one.name)]


def _counts(groups: Iterable[Sequence[Layer]]) -> dict[str, int]:
    found: dict[str, int] = defaultdict(int)
    for layer in (one for group in groups for one in group):
        found[layer.name] += 1
    return found


def _product(
    node: Node,
    layers: Sequence[Layer],
    by_node: Mapping[str, Sequence[Layer]],
    shared: Mapping[str, int],
) -> Product:
    simulated = compute_type(node)
    reason = _loss(node, simulated, layers, by_node)
    fate = _fate(layers, reason, shared)
    computed = _wide(layers) if fate is Fate.LOST else _narrowed(layers, simulated)
    names = tuple(one.name for one in layers)
    macs = multiply_accumulates(node)
    return Product(node.label, node.op, simulated, computed, fate, names, macs, reason)


def _fate(layers: Sequence[Layer], reason: str, shared: Mapping[str, int]) -> Fate:
    if not layers:
        return Fate.UNSEEN
    if reason:
        return Fate.LOST
    if len(layers) > 1:
        return Fate.SPLIT
    return Fate.MERGED if shared[layers[0].name] > 1 else Fate.KEPT


def _narrowed(layers: Sequence[Layer], simulated: str) -> str:
    """What layers compute in, which may be less than was simulated; empty where there are none."""
    if not layers or simulated not in _WIDEST:
        return simulated if layers else ""
    narrow = (one for one in _NARROW if all(_multiplies_in(layer, one) for layer in layers))
    return next(narrow, simulated)


def _loss(
    node: Node, simulated: str, layers: Sequence[Layer], by_node: Mapping[str, Sequence[Layer]]
) -> str:
    """Why a product is computed in a wider type than was simulated; empty where it is not."""
    if simulated in _WIDEST or not layers:
        return ""
    if all(_multiplies_in(one, simulated) for one in layers):
        return ""
    wide = _wide(layers)
    naming = {one.name: one for label in _labels(node) for one in by_node.get(label, ())}
    if any(_unpacks(one, simulated) for one in naming.values()):
        return f"its weight is made {wide} at every inference"
    read = " × ".join(types_of(_operands(layers[0])))
    return f"multiplied in {wide}; its kernel reads {read or 'unknown types'}"


def _labels(node: Node) -> Iterator[str]:
    """Of a product, and of the DQ of its constants."""
    yield node.label
    found = (dequantizer(node.input(index)) for index in (0, 1))
    yield from (one.label for one in found if one is not None)


def _operands(layer: Layer) -> list[LayerTensor]:
    """What a layer multiplies or adds, without scales and biases."""
    weights = [one for one in layer.constants if sum(size != 1 for size in one.shape) > 1]
    return [one for one in (*layer.inputs, *weights) if len(one.shape) > 1]


def _multiplies_in(layer: Layer, dtype: str) -> bool:
    if not layer.inputs or not layer.inputs[0].shape:
        return dtype in layer.reads  # a report without shapes
    if layer.kind in _GENERATED and _CAST_FIRST.search(layer.name):
        return False
    operands = _operands(layer)
    count = sum(one.dtype == dtype for one in operands)
    alone = count == len(operands)  # a product of one tensor with itself reads it once
    return count >= (3 if layer.is_attention else 2) or (count > 0 and alone)


def _unpacks(layer: Layer, dtype: str) -> bool:
    """Whether a layer computes a constant of this type in a wider one."""
    return not layer.inputs and any(one.dtype == dtype for one in layer.constants)


def _wide(layers: Iterable[Layer]) -> str:
    """The widest floating-point type that some layers read, or else write."""
    read = types_of(one for layer in layers for one in _operands(layer))
    given = types_of(one for layer in layers for one in layer.outputs)
    return next((one for types in (read, given) for one in _WIDEST if one in types), "")
