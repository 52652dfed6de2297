"""A quantized model from its config and its state dict, in a process that never calibrated it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx

from embedl_deploy.errors import QuantizationError
from embedl_deploy.quantize.config import QuantConfig
from embedl_deploy.quantize.placing.insert import insert_qdq
from embedl_deploy.rewrite import Result
from embedl_deploy.table import counted


def restore(
    result: Result | fx.GraphModule,
    config: QuantConfig | None,
    state: Mapping[str, Tensor],
    *,
    copy: bool = True,
) -> fx.GraphModule:
    """The quantized model that a state dict is of: weights, batch norms and scales.

    Args:
        result: What `transform` returned for the model with the same patterns, or its model; its
            weights do not matter.
        config: How the model was quantized, such as `QuantConfig.from_dict` gives it; by default as
            the target asks.
        state: What `state_dict()` of the quantized model gave, calibrated or trained.
        copy: Whether to leave the given model as it is and work on a copy.

    Returns:
        The model in eval mode. It computes what the saved one does, and trains on.

    Raises:
        QuantizationError: The state dict is of another model or another config.
    """
    model = insert_qdq(result, config, copy=copy).eval()
    _check(model.state_dict(), state)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise QuantizationError(f"{error}; give the config of the saved model") from None
    return model


def _check(wanted: Mapping[str, Tensor], given: Mapping[str, Any]) -> None:
    lacking = [name for name in wanted if name not in given]
    beyond = [name for name in given if name not in wanted]
    other = [name for name in wanted if name in given and given[name].shape != wanted[name].shape]
    if not (lacking or beyond or other):
        return
    found = [
        f"{what}: {counted(len(names), 'tensor')}, such as '{names[0]}'"
        for names, what in ((lacking, "missing"), (beyond, "unknown"), (other, "of another shape"))
        if names
    ]
    raise QuantizationError(
        f"the state dict is not of this model quantized like this: {'; '.join(found)}. Transform "
        "with the same patterns and inputs, and give the config that the model was quantized with"
    )
