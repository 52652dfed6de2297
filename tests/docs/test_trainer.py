"""The code of the section on Hugging Face's Trainer trains a quantized model."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from embedl_deploy import transform
from embedl_deploy.cli.torchvision_ops import import_torchvision
from embedl_deploy.quantize import (
    QuantConfig,
    TensorQuantConfig,
    freeze,
    quantize,
    scale_parameters,
)
from examples.text.data import WORDS, sentences
from tests.docs.test_docs import ROOT, blocks

pytest.importorskip("accelerate", reason="the package accelerate is not installed")

CONFIG = QuantConfig(
    activations=TensorQuantConfig(scale="learned"),
    weights=TensorQuantConfig(bits=4, scale="learned"),
)
DATA = sentences(32, seed=1)
LONG = (DATA.mask.sum(1) > DATA.mask.sum(1).float().median()).long()


class Texts(nn.Module):
    """Whether a text is long."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(len(WORDS), 16)
        self.inner, self.head = nn.Linear(16, 32), nn.Linear(32, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        found = (self.words(input_ids) * attention_mask.unsqueeze(-1)).sum(1)
        logits: Tensor = self.head(torch.relu(self.inner(found)))
        return logits


def code() -> str:
    (found,) = [
        one.text for one in blocks(ROOT / "docs" / "training.md") if "import Trainer" in one.text
    ]
    return found


def quantized() -> fx.GraphModule:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Texts().eval()
    batch = (DATA.tokens, DATA.mask)
    return quantize(transform(net, batch), [batch], CONFIG)


def optimizer_for(model: nn.Module) -> torch.optim.Optimizer:
    scales = scale_parameters(model)
    rest = [one for one in model.parameters() if all(one is not scale for scale in scales)]
    optimizer = torch.optim.AdamW(rest, lr=1e-2)
    optimizer.add_param_group({"params": scales, "lr": 1e-4, "weight_decay": 0.0})
    return optimizer


@pytest.mark.filterwarnings("ignore")  # of transformers and accelerate, of the machine
def test_trainer_trains_scales_and_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_torchvision()  # transformers imports it where it is installed
    # a device that another test makes up has no memory to pin
    monkeypatch.setattr(Tensor, "pin_memory", lambda one, *_: one)
    monkeypatch.chdir(tmp_path)
    model = quantized()
    before, scales = copy.deepcopy(model), scale_parameters(model)
    starts = copy.deepcopy(scales)
    rows = zip(DATA.tokens, DATA.mask, LONG, strict=True)
    names = ("input_ids", "attention_mask", "labels")
    namespace: dict[str, Any] = {
        "nn": nn,
        "freeze": freeze,
        "model": model,
        "optimizer": optimizer_for(model),
        "data": [dict(zip(names, row, strict=True)) for row in rows],
    }
    exec(code(), namespace)  # noqa: S102 - of this repository
    old, new = (
        nn.functional.cross_entropy(one.eval()(DATA.tokens, DATA.mask), LONG).item()
        for one in (before, model)
    )
    assert new < 0.8 * old
    assert scales
    assert not any(torch.equal(*pair) for pair in zip(scales, starts, strict=True))
    assert not any(one.training for one in model.modules())
