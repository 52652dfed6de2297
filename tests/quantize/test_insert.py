"""Stubs stand exactly where the patterns declared them, one per tensor."""

import inspect
from collections import Counter
from functools import cache

import pytest
import torch
from torch import Tensor, fx, nn

from embedl_deploy import Result, transform
from embedl_deploy.errors import QuantizationError
from embedl_deploy.modules import FusedModule, QDQPoint
from embedl_deploy.modules.conv import ConvKernel
from embedl_deploy.patterns import Pattern
from embedl_deploy.quantize import QuantConfig, QuantStub, WeightFakeQuantize, insert_qdq
from embedl_deploy.tensorrt import (
    TENSORRT_MIXED_PRECISION_PATTERNS,
    TENSORRT_PATTERNS,
    TENSORRT_SMART_PATTERNS,
)
from tests.quantize.nets import NETS, SIZE, ready

LISTS = {
    "full": TENSORRT_PATTERNS,
    "smart": TENSORRT_SMART_PATTERNS,
    "mixed": TENSORRT_MIXED_PRECISION_PATTERNS,
}
EXAMPLE = (torch.zeros(2, 3, SIZE, SIZE),)


DECLARED = QuantConfig(attention="inputs")
"""All declared points are quantized, those of attention too."""


@cache
def transformed(net: str, patterns: str = "full") -> Result:
    return transform(ready(NETS[net]), EXAMPLE, patterns=LISTS[patterns])


def fused_calls(model: fx.GraphModule) -> list[tuple[fx.Node, FusedModule]]:
    calls = [node for node in model.graph.nodes if node.op == "call_module"]
    pairs = [(node, model.get_submodule(str(node.target))) for node in calls]
    return [(node, module) for node, module in pairs if isinstance(module, FusedModule)]


def arguments(node: fx.Node, module: nn.Module) -> dict[str, object]:
    return dict(inspect.signature(module.forward).bind(*node.args, **node.kwargs).arguments)


def declared_uses(model: fx.GraphModule) -> set[tuple[str, str, str]]:
    """(tensor, consumer, argument) of every declared point but `OUTPUT`, by node name.

    What a dropout makes of a result with a stub is left out: it has that stub.
    """
    uses = set()
    for node, module in fused_calls(model):
        given = arguments(node, module)
        for point in module.qdq_points:
            names = module.quantized_arguments(point)
            uses |= {(str(given[name]), str(node), name) for name in names if name in given}
    return {use for use in uses if use[0] not in dropped(model)}


def dropped(model: fx.GraphModule) -> set[str]:
    """Results of a dropout of a tensor with a declared `OUTPUT`."""
    calls = [node for node in model.graph.nodes if node.op == "call_module"]
    dropouts = [
        node for node in calls if isinstance(model.get_submodule(str(node.target)), nn.Dropout)
    ]
    return {str(node) for node in dropouts if str(node.args[0]) in outputs(model)}


def outputs(model: fx.GraphModule) -> set[str]:
    """Tensors with a declared `OUTPUT`."""
    pairs = fused_calls(model)
    return {str(node) for node, module in pairs if QDQPoint.OUTPUT in module.qdq_points}


def is_stub(model: fx.GraphModule, node: object) -> bool:
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return False
    return isinstance(model.get_submodule(str(node.target)), QuantStub)


def stub_nodes(model: fx.GraphModule) -> list[fx.Node]:
    return [node for node in model.graph.nodes if is_stub(model, node)]


def quantized_uses(model: fx.GraphModule) -> set[tuple[str, str, str]]:
    """(tensor, consumer, argument) wherever a fused module reads a stub."""
    uses = set()
    for node, module in fused_calls(model):
        for name, value in arguments(node, module).items():
            if isinstance(value, fx.Node) and is_stub(model, value):
                uses.add((str(value.args[0]), str(node), name))
    return uses


@pytest.mark.parametrize("patterns", LISTS)
@pytest.mark.parametrize("net", NETS)
def test_stubs_stand_exactly_at_declared_points(net: str, patterns: str) -> None:
    result = transformed(net, patterns)
    model = insert_qdq(result, DECLARED)
    expected, following = declared_uses(result.model), outputs(result.model)
    assert len(expected) > 3
    found = quantized_uses(model)
    assert expected <= found
    assert {use for use in found - expected if use[0] not in following} == set()
    for node in stub_nodes(model):
        if str(node.args[0]) not in following:  # else it is for all readers
            fused = {str(call) for call, _ in fused_calls(model)}
            assert {str(user) for user in node.users} <= fused


@pytest.mark.parametrize("patterns", LISTS)
@pytest.mark.parametrize("net", NETS)
def test_each_tensor_has_one_stub(net: str, patterns: str) -> None:
    result = transformed(net, patterns)
    model = insert_qdq(result, DECLARED)
    stubbed = [str(node.args[0]) for node in stub_nodes(model)]
    expected = {tensor for tensor, _, _ in declared_uses(result.model)} | outputs(result.model)
    assert sorted(stubbed) == sorted(expected)
    modules = [module for module in model.modules() if isinstance(module, QuantStub)]
    assert len(modules) == len(stubbed)


@pytest.mark.parametrize("patterns", LISTS)
@pytest.mark.parametrize("net", NETS)
def test_the_points_are_those_of_the_matches(net: str, patterns: str) -> None:
    result = transformed(net, patterns)
    model = insert_qdq(result)
    matched = Counter(match.qdq_points for match in result.matches if match.qdq_points)
    assert matched
    modules = [module for module in model.modules() if isinstance(module, FusedModule)]
    assert Counter(one.qdq_points for one in modules if one.qdq_points) == matched


@pytest.mark.parametrize("patterns", LISTS)
@pytest.mark.parametrize("net", NETS)
def test_weights_are_quantized_exactly_where_the_input_is(net: str, patterns: str) -> None:
    model = insert_qdq(transformed(net, patterns))
    quantized = 0
    for _, module in fused_calls(model):
        weights = module.quantizable_weights() if QDQPoint.INPUT in module.qdq_points else ()
        assert sorted(module.weight_quantizers) == sorted(
            path.replace(".", "_") for path in weights
        )
        quantized += len(weights)
    everywhere = sum(isinstance(module, WeightFakeQuantize) for module in model.modules())
    assert everywhere == quantized > 0


# Worked out by hand from the architectures.
# resnet, four blocks: input, 4 block inputs, 4 between convolutions, 3 downsample results,
#   pooling's input and output (the classifier reads the same).
# convnext, two blocks: input, per block (depthwise input, 2 linear inputs), 1 downsample,
#   pooling's input and output, the classifier after a norm.
# vit, two blocks: input, per block (projection, query, key, value, out-projection, 2 linear
#   inputs), the head.
# mobilenet: 52 convolutions with distinct inputs (17 of them depthwise), pooling's input and
#   output; the classifier after a dropout has a stub of its own where pooling has none. Residuals
#   are inputs of the convolutions beside them; of the first, in the mixed list, only a depthwise
#   convolution reads the tensor as well, so the residual has a stub of its own.
COUNTS = {
    ("resnet", "full"): 14,
    ("resnet", "smart"): 13,
    ("resnet", "mixed"): 13,
    ("convnext", "full"): 11,
    ("convnext", "smart"): 9,
    ("convnext", "mixed"): 7,
    ("vit", "full"): 16,
    ("vit", "smart"): 16,
    ("vit", "mixed"): 16,
    ("mobilenet", "full"): 54,
    ("mobilenet", "smart"): 53,
    ("mobilenet", "mixed"): 37,
}


@pytest.mark.parametrize(("net", "patterns"), COUNTS)
def test_the_number_of_stubs_is_that_of_the_architecture(net: str, patterns: str) -> None:
    assert (
        len(stub_nodes(insert_qdq(transformed(net, patterns), DECLARED))) == COUNTS[net, patterns]
    )


@pytest.mark.parametrize("net", ["resnet", "convnext", "mobilenet"])
def test_smart_lists_leave_global_pooling_alone(net: str) -> None:
    for patterns in ("smart", "mixed"):
        model = insert_qdq(transformed(net, patterns))
        pools = [node for node, one in fused_calls(model) if "Pool2d" in type(one).__name__]
        assert pools
        for pool in pools:
            assert not is_stub(model, pool.args[0])


@pytest.mark.parametrize("net", ["convnext", "mobilenet"])
def test_mixed_precision_lists_leave_depthwise_convolutions_alone(net: str) -> None:
    model = insert_qdq(transformed(net, "mixed"))
    convs = [(node, one) for node, one in fused_calls(model) if isinstance(one, ConvKernel)]
    depthwise = [(node, one) for node, one in convs if one.conv.groups == one.conv.in_channels > 1]
    assert 0 < len(depthwise) < len(convs)
    for node, one in depthwise:
        assert not is_stub(model, node.args[0])
        assert not one.weight_quantizers


def test_self_attention_reads_one_stub() -> None:
    model = insert_qdq(transformed("vit"))
    kinds = {str(node): type(one).__name__ for node, one in fused_calls(model)}
    projections = [node for node, _ in fused_calls(model) if "InProjection" in kinds[str(node)]]
    assert len(projections) == 2
    for node in projections:
        assert is_stub(model, node.args[0])
        assert len(set(node.args)) == 1


class Shared(nn.Module):
    """A residual that is the input of the convolution it is added to."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)) + x)


def test_a_residual_shares_the_stub_of_the_input() -> None:
    model = insert_qdq(transform(Shared().eval()))
    (stub,) = stub_nodes(model)
    ((node, _),) = fused_calls(model)
    assert node.args == (stub, stub)


class Elsewhere(nn.Module):
    """The input of the convolution is used in floating point as well, and returned."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.sin(x)
        return self.conv(y) * y, y


def test_other_consumers_keep_the_unquantized_tensor() -> None:
    model = insert_qdq(transform(Elsewhere().eval()))
    (stub,) = stub_nodes(model)
    assert [user.op for user in stub.users] == ["call_module"]
    product = next(node for node in model.graph.nodes if node.op == "output").args[0][0]
    assert not any(is_stub(model, one) for one in product.args)


class Head(nn.Module):
    """A pooling, dropouts and a convolution, and somebody who reads what a dropout made."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Sequential(nn.Dropout(), nn.Dropout2d())
        self.conv, self.again = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.drop(self.pool(x))
        y = self.conv(x)
        return self.again(nn.functional.dropout(y, 0.1, self.training)), x + y


def test_a_dropout_between_two_points_takes_no_second_stub() -> None:
    model = insert_qdq(transform(Head().eval()))
    points = [model.get_submodule(str(node.target)).points for node in stub_nodes(model)]
    assert points == [("pool INPUT",), ("pool OUTPUT", "conv INPUT"), ("again INPUT",)]
    following = stub_nodes(model)[1]
    assert [str(user.target) for user in following.users] == ["drop.0"]
    weights = [one for one in model.modules() if isinstance(one, WeightFakeQuantize)]
    assert len(weights) == 2


class OfFloat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


def test_a_model_without_points_is_refused() -> None:
    with pytest.raises(QuantizationError, match="no Q/DQ point"):
        insert_qdq(transform(OfFloat()))


class SilentLinear(Pattern):
    """A linear layer that its user keeps in floating point."""

    from embedl_deploy.patterns import LINEAR as tree  # noqa: N811

    qdq_points = ()

    def build(self, linear: nn.Linear) -> FusedModule:
        from embedl_deploy.modules import FusedLinear

        return FusedLinear(linear)


def test_a_pattern_with_no_points_leaves_input_and_weight_alone() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(1, 2, 1))
    result = transform(net, patterns=(SilentLinear, *TENSORRT_PATTERNS))
    model = insert_qdq(result)
    assert [str(node.args[0]) for node in stub_nodes(model)] == ["_0_1"]
    assert sum(isinstance(one, WeightFakeQuantize) for one in model.modules()) == 1


def test_the_result_is_left_as_it_is() -> None:
    result = transformed("resnet")
    before = str(result.model.graph), sorted(result.model.state_dict())
    model = insert_qdq(result)
    assert (str(result.model.graph), sorted(result.model.state_dict())) == before
    own = {one.data_ptr() for one in result.model.parameters()}
    assert not own & {one.data_ptr() for one in model.parameters()}


def test_without_copy_the_model_itself_is_changed() -> None:
    model = transform(Shared().eval()).model
    assert insert_qdq(model, copy=False) is model
    assert len(stub_nodes(model)) == 1


@pytest.mark.parametrize("training", [True, False])
def test_stubs_and_quantizers_take_over_the_mode(*, training: bool) -> None:
    model = insert_qdq(transform(Shared().train(training)))
    kinds = (FusedModule, QuantStub, WeightFakeQuantize)
    found = [module for module in model.modules() if isinstance(module, kinds)]
    assert len(found) == 3
    assert {module.training for module in found} == {training}


def test_stubs_can_not_be_inserted_twice() -> None:
    with pytest.raises(QuantizationError, match="has stubs already"):
        insert_qdq(insert_qdq(transformed("resnet")))


def test_a_model_that_was_not_transformed_is_refused() -> None:
    with pytest.raises(QuantizationError, match="not a Shared"):
        insert_qdq(Shared())  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(bad: float) -> None:
    net = Shared().eval()
    with torch.no_grad():
        net.conv.weight[1, 2] = bad
    result = transform(net)
    with pytest.raises(QuantizationError, match=r"'conv\.conv\.weight' has values .* not finite"):
        insert_qdq(result, copy=False)
    assert not stub_nodes(result.model)


def test_a_stub_says_where_it_is() -> None:
    model = insert_qdq(transform(Shared().eval()))
    (stub,) = (module for module in model.modules() if isinstance(module, QuantStub))
    assert stub.points == ("conv INPUT", "conv RESIDUAL_INPUT")
    assert repr(stub) == (
        "QuantStub(bits=8, scale=not calibrated, at conv INPUT, conv RESIDUAL_INPUT)"
    )


def test_a_residual_is_left_where_the_config_says_so() -> None:
    shared = insert_qdq(transform(Shared().eval()), QuantConfig(residual=False))
    (stub,) = (module for module in shared.modules() if isinstance(module, QuantStub))
    assert stub.points == ("conv INPUT",)
    (call,) = shared.graph.find_nodes(op="call_module", target="conv")
    quantized, residual = call.args
    assert (quantized.target, residual.op) == ("x_stub", "placeholder")
