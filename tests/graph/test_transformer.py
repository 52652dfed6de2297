"""Encoders and decoders of torch.nn are taken apart into the layers that patterns know."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from embedl_deploy import transform
from embedl_deploy.export import export_onnx, verify_onnx
from embedl_deploy.modules import FusedModule, FusedScaledDotProductAttention
from embedl_deploy.quantize import quantize

SIZE, HEADS, HIDDEN = 8, 2, 16
ROWS = torch.rand(2, 5, SIZE, generator=torch.Generator().manual_seed(0))
PADDED = torch.arange(5) >= torch.tensor([[5], [3]])


class Padded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(SIZE, HEADS, HIDDEN, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, rows: Tensor, padded: Tensor) -> Tensor:
        out: Tensor = self.encoder(rows, src_key_padding_mask=padded)
        return out


class Both(nn.Module):
    """An encoder and a decoder that looks at none of what comes after."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Transformer(SIZE, HEADS, 1, 1, HIDDEN, batch_first=True)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        out: Tensor = self.both(source, target, tgt_mask=mask)
        return out


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...], int]] = {
    "layer": (lambda: nn.TransformerEncoderLayer(SIZE, HEADS, HIDDEN), (ROWS,), 1),
    "norm first": (
        lambda: nn.TransformerEncoderLayer(
            SIZE, HEADS, HIDDEN, batch_first=True, norm_first=True, activation="gelu"
        ),
        (ROWS,),
        1,
    ),
    "padded": (Padded, (ROWS, PADDED), 2),
    "decoder": (
        lambda: nn.TransformerDecoderLayer(SIZE, HEADS, HIDDEN, batch_first=True),
        (ROWS, ROWS[:, :4].flip(0)),
        2,
    ),
    "both": (Both, (ROWS, ROWS[:, :4]), 3),
}


def made(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().eval()
        for one in model.parameters():
            if one.dim() == 1:
                nn.init.normal_(one, 0.5, 0.3)
    return model


@pytest.mark.parametrize("name", CASES)
def test_all_arithmetic_is_in_fused_modules(name: str) -> None:
    make, inputs, attentions = CASES[name]
    model = made(make)
    result = transform(model, inputs)
    assert torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad():
        found = result.model(*inputs)
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            wanted = model(*inputs)
        finally:
            torch.backends.mha.set_fastpath_enabled(True)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    kinds = [type(one) for one in result.model.modules() if isinstance(one, FusedModule)]
    assert kinds.count(FusedScaledDotProductAttention) == attentions
    assert result.coverage is not None
    assert result.coverage.share == 1.0
    assert result.coverage.total > 2_000 * attentions


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_is_not_padded_is_what_inference_gives(tmp_path: Path) -> None:
    model = made(Padded)
    result = transform(model, (ROWS, PADDED))
    with torch.no_grad():
        wanted, found = model(ROWS, PADDED), result.model(ROWS, PADDED)
    torch.testing.assert_close(found[~PADDED], wanted[~PADDED], rtol=1e-5, atol=1e-5)
    assert not wanted[PADDED].any()  # torch's fast path was taken
    quantized = quantize(result, [(ROWS, PADDED)])
    path = export_onnx(quantized, (ROWS, PADDED), tmp_path / "padded.onnx")
    assert verify_onnx(path, quantized, [(ROWS, PADDED)]).only_ties


def test_numbers_that_a_factory_makes_are_known() -> None:
    """And those of memory that nobody set are not."""

    class Reads(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mask = torch.full((x.shape[1], x.shape[1]), 2.0).triu(1)
            if (mask == torch.ones(5, 5).triu(1) * 2).all():
                return x * 2
            return x if x.sum() > 0 else -x

    result = transform(Reads(), (ROWS,))
    torch.testing.assert_close(result.model(ROWS), ROWS * 2)
