"""Quantization in one call: quickly, or with all that gets accuracy back."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, get_args

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from embedl_deploy.batches import check_batches
from embedl_deploy.errors import QuantizationError
from embedl_deploy.quantize.accurate import quantize_accurately
from embedl_deploy.quantize.calibrating.calibrate import Data, Progress, calibrate
from embedl_deploy.quantize.config import QuantConfig
from embedl_deploy.quantize.placing.insert import insert_qdq
from embedl_deploy.rewrite import Result

Recipe = Literal["fast", "accurate"]

_KEPT = 1024
"""How many samples of data that comes only once are kept."""


def quantize(
    result: Result | fx.GraphModule,
    data: Data,
    config: QuantConfig | None = None,
    *,
    recipe: Recipe = "fast",
    fine_tune: Callable[[fx.GraphModule], object] | None = None,
    progress: Progress | None = None,
) -> fx.GraphModule:
    """Insert stubs, calibrate them, and fine-tune if asked: the steps in one.

    Args:
        result: What `transform` returned, or its model; left as it is.
        data: Representative batches; see `calibrate`. The accurate recipe needs several passes:
            no function, and of an iterator up to 1024 samples are kept.
        config: How to quantize; by default as the target asks: 8 bits, min-max for TensorRT.
        recipe: `"fast"` calibrates. `"accurate"` tries layers on one value a channel in floating
            point (squeeze and excitation), `smooth`, `equalize`, ranges of the least squared error
            where the config leaves the observer of the activations at min-max, the last layers and
            the first ones in floating point, `adaround` for weights below 8 bits, and
            `correct_bias`, in this order, and keeps each where the outputs are not further from
            those in floating point; see `recipe_report`.
        fine_tune: Trains the quantized model in place, with any PyTorch loop.
        progress: Called after every calibration batch; of the accurate recipe after every step.

    Returns:
        The quantized model in eval mode, ready for export.

    Raises:
        CalibrationError: There is no data, or a batch does not fit the model.
        QuantizationError: There is no such recipe, or it cannot work on such data.
    """
    if recipe not in get_args(Recipe):
        raise QuantizationError(f"recipe is one of {', '.join(get_args(Recipe))}, not {recipe!r}")
    if recipe == "accurate":
        model = quantize_accurately(result, _repeatable(data), config, progress)
    else:
        model = calibrate(insert_qdq(result, config), data, progress=progress)
    if fine_tune is not None:
        fine_tune(model)
    return model.eval()


def _repeatable(data: Data) -> Iterable[Any]:
    """The data as what can be gone through several times.

    Raises:
        QuantizationError: It cannot.
    """
    if callable(data) and not isinstance(data, Iterable):
        raise QuantizationError(
            'recipe="accurate" goes through the data several times; pass batches, not a function'
        )
    check_batches(data)
    if not isinstance(data, Iterator):
        return data
    kept: list[Any] = []
    count = 0
    for batch in data:
        kept.append(batch)
        count += _samples(pytree.tree_leaves(batch))
        if count > _KEPT:
            raise QuantizationError(
                'recipe="accurate" goes through the data several times, and this iterator has '
                f"more than {_KEPT} samples to keep; pass a list of batches or a DataLoader"
            )
    return kept


def _samples(leaves: Iterable[Any]) -> int:
    return next((len(one) for one in leaves if isinstance(one, Tensor) and one.dim()), 1)
