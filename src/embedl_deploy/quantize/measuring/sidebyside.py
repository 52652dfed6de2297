"""A quantized model beside the same model in floating point, layer by layer."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from embedl_deploy.batches import batches_for, device_of, fitting, inferring, moved
from embedl_deploy.errors import CalibrationError, QuantizationError
from embedl_deploy.graph.interpreter import Interpreter
from embedl_deploy.modules import FusedModule
from embedl_deploy.modules.base import by_name
from embedl_deploy.quantize.calibrating.faults import in_order
from embedl_deploy.quantize.stubs import WeightFakeQuantize, enabled_only
from embedl_deploy.rewrite import Result

Given = Mapping[str, Any]
"""The arguments of a fused module's `forward`, by name."""

UNKNOWN = "its parts do not say how its weights are multiplied"
"""Why a fused module with rounded weights is left as it is."""

Reference = Result | fx.GraphModule
"""What a quantized model was made of."""


@dataclass(frozen=True)
class LayerPair:
    """A fused module with rounded weights, at the moment before it runs.

    Attributes:
        path: Of the module.
        module: The quantized one; its inputs come from quantized layers.
        reference: The same in floating point.
        given: The arguments of the quantized one, batch by batch.
        wanted: Those of the one in floating point.
    """

    path: str
    module: Any
    reference: Any
    given: Sequence[Given]
    wanted: Sequence[Given]


def side_by_side(
    model: fx.GraphModule,
    reference: fx.GraphModule,
    batches: Sequence[Sequence[Any]],
    first: int = 0,
) -> Iterator[LayerPair]:
    """The layers in the order in which they run, each with its inputs in both models.

    All batches come to a layer before any goes on. So what is changed there reaches all layers
    after it, and one run of both models does for all of them. A value is dropped after its
    last use.

    Args:
        model: The quantized model.
        reference: The same in floating point.
        batches: Inputs by position.
        first: The number of the first of them, for messages.

    Raises:
        CalibrationError: A batch does not fit a model.
    """
    mine, its = dict(_modules(model)), dict(_modules(reference))
    wanted_calls = _reached(reference, batches, first, ran=True)  # finds batches that do not fit
    calls = zip(wanted_calls, _reached(model, batches, first), strict=True)
    for (_, wanted), (path, given) in calls:
        if rounded_weights(mine[path]):
            yield LayerPair(path, mine[path], its[path], given, wanted)


def first_inputs(model: fx.GraphModule, data: Iterable[Any], samples: int) -> list[list[Any]]:
    """The inputs by position of the first batches that have so many samples together.

    Raises:
        CalibrationError: There are none, or one does not fit the model.
    """
    found: list[list[Any]] = []
    count = 0
    for index, inputs in enumerate(batches_for(model, data)):
        with fitting(f"batch {index}", inputs):
            given = in_order(model, *moved(inputs, device_of(model)))
            model(*given)
        found.append(given)
        count += next((len(one) for one in given if isinstance(one, Tensor) and one.dim()), 1)
        if count >= samples:
            break
    if not found:
        raise CalibrationError("there is no data to learn from; give at least one batch")
    return found


def rounded_weights(module: Any) -> dict[str, tuple[Tensor, WeightFakeQuantize]]:
    """The weights of a module that have a quantizer, by path, each with it."""
    found: dict[str, tuple[Tensor, WeightFakeQuantize]] = {}
    if not isinstance(module, FusedModule):
        return found
    for path in module.weights():
        quantizer = module.quantizer(path)
        if isinstance(quantizer, WeightFakeQuantize):
            found[path] = (module.unrounded(path), quantizer)
    return found


def fused_calls(model: fx.GraphModule) -> list[str]:
    """The paths of the fused modules in the order of their calls."""
    modules = dict(_modules(model))
    calls = [str(node.target) for node in model.graph.nodes if node.op == "call_module"]
    return [path for path in calls if isinstance(modules[path], FusedModule)]


@contextmanager
def in_floating_point(
    model: fx.GraphModule, reference: Reference | None
) -> Iterator[fx.GraphModule]:
    """The model in floating point, in eval mode: the reference, or a copy without rounding.

    Raises:
        QuantizationError: The reference is another model; or there is none and weights are
            rounded already, so that the model cannot tell what they were.
    """
    other = reference.model if isinstance(reference, Result) else reference
    if other is None or _in_common(model, other):
        _check_unrounded(model)
        other = copy.deepcopy(model if other is None else other)
    if fused_calls(model) != fused_calls(other):
        raise QuantizationError(
            "the reference does not call the same fused modules in the same order; pass what the "
            "model was made of: the result of transform()"
        )
    with inferring(other), enabled_only(other):
        yield other


def _in_common(model: nn.Module, other: nn.Module) -> bool:
    """Whether two models have tensors in common, as of `transform(…, copy=False)`."""
    mine, its = ({*one.parameters(), *one.buffers()} for one in (model, other))
    return not mine.isdisjoint(its)


def _reached(
    model: fx.GraphModule, batches: Sequence[Sequence[Any]], first: int, *, ran: bool = False
) -> Iterator[tuple[str, list[Given]]]:
    """Runs a model; comes to each call of a fused module with its arguments.

    Args:
        model: The model.
        batches: Inputs by position.
        first: The number of the first of them.
        ran: Whether to come to a call after it ran, and not before.
    """
    modules = dict(_modules(model))
    runs = [Interpreter(model) for _ in batches]
    for run, inputs in zip(runs, batches, strict=True):
        run.args_iter = iter(inputs)
    for node in model.graph.nodes:
        path = str(node.target)
        fused = node.op == "call_module" and isinstance(modules[path], FusedModule)
        given = [_given(run, node, modules[path]) for run in runs] if fused else []
        if fused and not ran:
            yield path, given
        for number, run in enumerate(runs):
            with fitting(f"batch {first + number}", (tuple(batches[number]), {})):
                _step(run, node)
        if fused and ran:
            yield path, given


def _given(run: Interpreter, node: fx.Node, module: FusedModule) -> Given:
    return by_name(module, *run.fetch_args_kwargs_from_env(node))


def _step(run: Interpreter, node: fx.Node) -> None:
    run.env[node] = run.run_node(node)
    for value in run.user_to_last_uses.get(node, ()):
        del run.env[value]


def _modules(model: fx.GraphModule) -> Iterator[tuple[str, Any]]:
    return model.named_modules(remove_duplicate=False)


def _check_unrounded(model: nn.Module) -> None:
    fused = [one for one in model.modules() if isinstance(one, FusedModule)]
    pairs = [pair for one in fused for pair in rounded_weights(one).values()]
    exact = sum(bool((quantizer(weight) == weight).all()) for weight, quantizer in pairs)
    if 2 * exact > len(pairs):
        raise QuantizationError(
            f"{exact} of {len(pairs)} weights are multiples of their scales already, as adaround() "
            "leaves them; pass reference=, what the model was made of: the result of transform(), "
            "with tensors of its own"
        )
