"""What INT8 attention costs, with more or less decided attention: `python -m benchmarks.attention`.

Transformers with random weights attend to all positions alike, which trained ones do not. So their
queries are multiplied by a factor as well. The table has the signal to noise of the results against
the model in floating point, and the mean over rows of the largest probability.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from benchmarks.compiled import warmed
from embedl_deploy import transform
from embedl_deploy.quantize import QuantConfig, QuantStub, quantize
from embedl_deploy.quantize.measuring.noise import Noise
from embedl_deploy.tensorrt import TENSORRT_RTX

MODELS = ("timm:deit_small_patch16_224", "torchvision:swin_t", "torchvision:vit_b_16")
FACTORS = (1, 2, 4)
SAMPLES = 8


def main() -> None:
    """Print a line for each model and factor."""
    print("| model | queries | largest probability | `none` | `full` |\n|---|---|---|---|---|")
    for name in MODELS:
        for factor in FACTORS:
            none, full, largest = measured(name, factor)
            print(f"| `{name}` | ×{factor} | {largest:.2f} | {none:.1f} dB | {full:.1f} dB |")


def measured(name: str, factor: float) -> tuple[float, float, float]:
    """Decibels without and with INT8 attention, and the mean of the largest probabilities."""
    built = warmed(name)
    for query in _queries(built.model):
        query.mul_(factor)
    calibration, held_out = ([built.draw(1)[0] for _ in range(SAMPLES)] for _ in range(2))
    result = transform(built.model, calibration[0], target=TENSORRT_RTX)
    found, largest = [], []
    for attention in ("none", "full"):
        model = quantize(result, calibration, QuantConfig(attention=attention))
        largest += _largest(model, held_out[0])
        found.append(_decibels(built.model, model, held_out))
    none, full = found
    return none, full, sum(largest) / len(largest)


@torch.no_grad()
def _queries(model: nn.Module) -> Iterator[Tensor]:
    """Weights and biases of packed projections, as far as they make queries."""
    for path, one in model.named_modules():
        if isinstance(one, nn.MultiheadAttention):
            packed: tuple[Tensor | None, ...] = (one.in_proj_weight, one.in_proj_bias)
        elif isinstance(one, nn.Linear) and path.endswith("qkv"):
            packed = (one.weight, one.bias)
        else:
            continue
        yield from (each.detach()[: len(each) // 3] for each in packed if each is not None)


@torch.no_grad()
def _largest(model: nn.Module, inputs: Sequence[Tensor]) -> list[float]:
    seen: list[float] = []
    hooks = [
        one.register_forward_pre_hook(lambda _, given: seen.append(given[0].amax(-1).mean().item()))
        for one in model.modules()
        if isinstance(one, QuantStub) and any("PROBABILITIES" in point for point in one.points)
    ]
    model(*inputs)
    for hook in hooks:
        hook.remove()
    return seen


@torch.no_grad()
def _decibels(source: nn.Module, model: nn.Module, batches: Sequence[Sequence[Tensor]]) -> float:
    noise = Noise()
    for inputs in batches:
        noise.add(source(*inputs), model(*inputs))
    return noise.sqnr_db


if __name__ == "__main__":
    main()
