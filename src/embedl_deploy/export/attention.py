"""Attention as the target fuses it: factor and transposition before the quantizers or after."""

import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from embedl_deploy.export.operators import (
    MatMulAttention,
    QuantizeDequantizeKey,
    QuantizeDequantizeQuery,
)
from embedl_deploy.graph.aliases import VIEWS
from embedl_deploy.graph.shapes import propagate, shape
from embedl_deploy.graph.writes import called
from embedl_deploy.modules import FusedModule, QDQPoint, ScaledDotProductAttention
from embedl_deploy.quantize import QuantStub
from embedl_deploy.target import Lowering


def attention_of(module: nn.Module | None) -> ScaledDotProductAttention | None:
    """The attention that a module is or holds."""
    module = module.attends if isinstance(module, FusedModule) else module
    return module if isinstance(module, ScaledDotProductAttention) else None


def set_factors(model: fx.GraphModule, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Write out the factor on the logits wherever the size of a head implies it."""
    implied = [
        (_argument(node, 0, "query"), attention)
        for node, attention in attentions(model)
        if attention.scale is None
    ]
    if any(shape(query) is None for query, _ in implied):
        propagate(model, tuple(args), kwargs)
    for query, attention in implied:
        size = shape(query)
        assert size is not None  # noqa: S101 - known now
        attention.scale = size[-1] ** -0.5


def _argument(node: fx.Node, index: int, name: str) -> Any:
    return node.args[index] if len(node.args) > index else node.kwargs.get(name)


def attentions(
    model: fx.GraphModule, *, as_operator: bool = False
) -> list[tuple[fx.Node, ScaledDotProductAttention]]:
    """Every call of attention; of those that are no operator where that is wanted.

    With its probabilities quantized attention is never one operator.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    called = [node for node in model.graph.nodes if node.op == "call_module"]
    if as_operator:
        called = [node for node in called if _probabilities(modules[str(node.target)])]
    found = [(node, attention_of(modules[str(node.target)])) for node in called]
    return [(node, attention) for node, attention in found if attention is not None]


def _probabilities(module: nn.Module) -> nn.Module | None:
    inner = module.inner_points if isinstance(module, FusedModule) else ()
    return (
        getattr(module, QDQPoint.PROBABILITIES.value) if QDQPoint.PROBABILITIES in inner else None
    )


def take_in_factors(model: fx.GraphModule, lowering: Lowering) -> None:
    """Multiply queries that are stored by the factor on the logits.

    A file in half precision would hold the product, rounded once more than the simulation.
    """
    calls = attentions(model, as_operator=lowering.whole_attention)
    served = _stubs_of_attention(model, calls, lowering)
    named = Counter(str(one.target) for one in model.graph.nodes if one.op == "call_module")
    for node, attention in calls:
        query, path = _argument(node, 0, "query"), served[node][0]
        stored = _stored(query.args[0] if path else query)
        if stored is None or named[str(node.target)] > 1:
            continue
        factor = attention.scale
        assert factor is not None  # noqa: S101 - set_factors ran
        tensor = operator.attrgetter(str(stored.target))(model)
        stored.target = f"{stored.name}_scaled"
        model.register_buffer(stored.target, tensor.detach() * factor)
        if path:
            stub = _get(model, path)
            stub.scale = (stub.scale * factor).detach()
        attention.scale = 1.0


def _stored(node: Any) -> fx.Node | None:
    """The stored tensor that a value is a view of, where nothing else reads either."""
    while isinstance(node, fx.Node) and len(node.users) == 1 and called(node) in VIEWS:
        node = node.args[0]
    alone = isinstance(node, fx.Node) and len(node.users) == 1 and node.op == "get_attr"
    return node if alone else None


@dataclass(frozen=True)
class Upstream:
    """What the file does before the pairs of queries and keys, by the paths of their stubs.

    Attributes:
        factors: On queries; `None` is one over the square root of the head size.
        transposed: The keys.
    """

    factors: Mapping[str, float | None]
    transposed: frozenset[str]


def upstream(model: fx.GraphModule, lowering: Lowering) -> Upstream:
    """What the target wants before stubs: where a stub serves one attention alone."""
    calls = attentions(model, as_operator=lowering.whole_attention)
    served = _stubs_of_attention(model, calls, lowering)
    queries = [(served[node][0], one.scale) for node, one in calls]
    keys = [key for _, key in served.values()]
    return Upstream(
        {path: scale for path, scale in queries if path is not None},
        frozenset(path for path in keys if path is not None),
    )


def lower_attention(model: fx.GraphModule, lowering: Lowering) -> None:
    """Write attention out; stubs that serve one attention alone get what the target wants."""
    calls = attentions(model, as_operator=lowering.whole_attention)
    served = _stubs_of_attention(model, calls, lowering)
    lowered: dict[str, nn.Module] = {}
    for node, attention in calls:
        query, key = served[node]
        factor = attention.scale
        assert factor is not None  # noqa: S101 - set_factors ran
        if query is not None:
            model.set_submodule(query, QuantizeDequantizeQuery(_get(model, query), factor))
        if key is not None:
            model.set_submodule(key, QuantizeDequantizeKey(_get(model, key)))
        lowered[str(node.target)] = MatMulAttention(
            factor if query is None and factor != 1 else None,
            transposed=key is not None,
            is_causal=attention.is_causal,
            enable_gqa=attention.enable_gqa,
            fill=attention.fill,
            fill_first=attention.fill_first,
            probabilities=_probabilities(model.get_submodule(str(node.target))),
        )
    for path, module in lowered.items():
        model.set_submodule(path, module)


def _get(model: fx.GraphModule, path: str) -> QuantStub:
    stub = model.get_submodule(path)
    assert isinstance(stub, QuantStub)  # noqa: S101 - by its caller
    return stub


def _stubs_of_attention(
    model: fx.GraphModule,
    calls: Sequence[tuple[fx.Node, ScaledDotProductAttention]],
    lowering: Lowering,
) -> dict[fx.Node, tuple[str | None, str | None]]:
    """The stubs of query and key that something moves before; `None` for others.

    Nothing else may read such a stub or be called by its name. A factor that is not above zero
    stays after the query's stub, since it can be none of a scale.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    named = Counter(str(one.target) for one in model.graph.nodes if one.op == "call_module")

    def alone(node: fx.Node, value: Any, *, wanted: bool) -> str | None:
        if not wanted or not isinstance(value, fx.Node) or value.op != "call_module":
            return None
        path = str(value.target)
        uses = sum(_arguments(user).count(value) for user in value.users)
        once = uses == 1 and named[path] == 1 and named[str(node.target)] == 1
        return path if once and isinstance(modules[path], QuantStub) else None

    def moves(attention: ScaledDotProductAttention) -> bool:
        return attention.scale is None or attention.scale > 0

    return {
        node: (
            alone(node, _argument(node, 0, "query"), wanted=lowering.factor_first and moves(one)),
            alone(node, _argument(node, 1, "key"), wanted=lowering.key_first),
        )
        for node, one in calls
    }


def _arguments(node: fx.Node) -> list[Any]:
    found: list[Any] = []
    fx.map_arg((node.args, node.kwargs), found.append)
    return found
