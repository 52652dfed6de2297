"""The models, their data, and the lists of patterns."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.quality.models import built as built_with_images
from benchmarks.quality.trained import MODELS as TRAINED
from embedl_deploy.tensorrt import TENSORRT_RTX
from embedl_deploy.tensorrt.mixed import MIXED
from examples.digits import train
from examples.digits.data import calibration_batches, digits

FOLDER = Path(__file__).parents[2] / ".placement"
"""Where what was measured is kept."""
GPU = "rtx4090"
NETS = (
    *("mobilenet_v2", "mobilenet_v3_large", "resnet50", "efficientnet_b0", "convnext_tiny"),
    *("swin_t", "vit_b_16"),
)
DIGITS = "digits-"
MODELS = (*(f"{DIGITS}{name}" for name in TRAINED), *NETS)
EVERYTHING = tuple(one for one in TENSORRT_RTX.patterns if one not in MIXED)
LISTS = {
    "nothing: float16": (None, 1),
    "everything": (EVERYTHING, 1),
    "smart": (TENSORRT_RTX.named("smart"), 1),
    "mixed": (TENSORRT_RTX.named("mixed"), 1),
    "nothing: float16, batch 32": (None, 32),
    "mixed, batch 32": (TENSORRT_RTX.named("mixed"), 32),
}
"""Patterns that are quantized, and the batch of the file."""
LISTED = ("resnet50", "convnext_tiny", "vit_b_16", "efficientnet_b0", "mobilenet_v2")


def built(name: str) -> tuple[nn.Module, Sequence[Tensor]]:
    """A model, and batches of data."""
    if name.startswith(DIGITS):
        return train.trained(name.removeprefix(DIGITS)), calibration_batches(digits())
    model, calibration, others = built_with_images(name)
    return model, torch.cat([calibration, others[:8]]).split(2)
