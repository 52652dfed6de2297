"""Outputs that depend on an order are compared pick by pick, and say which order it is."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, fx, nn

from embedl_deploy import transform
from embedl_deploy.export import export_onnx, verify_onnx
from embedl_deploy.export.precision import Precision
from embedl_deploy.quantize import quantize

Pick = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


def queries(scores: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
    """The boxes of the best scores, as a detection transformer has them."""
    best = scores.amax(-1).topk(20, 1)[1]
    return scores, boxes.gather(1, best[..., None].expand(-1, -1, 4))


def ordered(scores: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
    order = torch.argsort(scores.amax(-1), dim=1, descending=True)
    return boxes, boxes.gather(1, order[..., None].expand(-1, -1, 4))


def values_too(scores: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
    values, order = torch.sort(scores.flatten(1), dim=1)
    return boxes, values, order


def classes(scores: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
    return boxes, scores.argmax(-1)


def classes_and_confidence(scores: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
    return boxes, *scores.max(-1)


class Detector(nn.Module):
    """Scores that are the same except for the last bits, and a pick among them."""

    def __init__(self, pick: Pick) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.scores, self.boxes = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)
        self.pick = pick

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.stem(x).relu()
        scores = self.scores(y).flatten(2).transpose(1, 2) * 1e-3 + 5
        return self.pick(scores, self.boxes(y).flatten(2).transpose(1, 2))


PICKS: dict[str, tuple[Pick, str, Precision]] = {
    "top-k": (queries, "output_1", "float32"),
    "top-k in half precision": (queries, "output_1", "float16"),
    "argsort": (ordered, "output_1", "float16"),
    "sort": (values_too, "output_2", "float32"),
    "argmax": (classes, "output_1", "float16"),
    "max": (classes_and_confidence, "output_2", "float32"),
}


def batches(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, 8, 8, generator=generator) for _ in range(3)]


@cache
def made(pick: Pick) -> tuple[nn.Module, fx.GraphModule]:
    torch.manual_seed(0)
    model = Detector(pick).eval()
    return model, quantize(transform(model, (batches()[0],)), batches())


@pytest.mark.parametrize(("pick", "output", "precision"), PICKS.values(), ids=PICKS)
def test_what_comes_after_an_order_is_compared_pick_by_pick(
    tmp_path: Path, pick: Pick, output: str, precision: Precision
) -> None:
    model, quantized = made(pick)
    path = export_onnx(quantized, (batches()[0],), tmp_path / "m.onnx", precision=precision)
    parity = verify_onnx(path, quantized, batches(1))
    assert parity.only_ties, parity
    (order,) = parity.orders.values()
    assert (order.outputs, order.followed, order.sound) == ((output,), True, True)
    assert order.picks > 0
    assert "was taken from the file" in str(parity)
    free = verify_onnx(path, model, batches(1), stubs=False)
    assert free.outputs[output].sqnr_db > 20


def test_the_picks_of_a_model_in_floating_point_are_its_own(tmp_path: Path) -> None:
    model, quantized = made(ordered)
    path = export_onnx(quantized, (batches()[0],), tmp_path / "m.onnx")
    (order,) = verify_onnx(path, model, batches(1), stubs=False).orders.values()
    assert order.picks == 3 * 2 * 64
    assert 0 < order.agreement < 0.9  # others of the near-equal scores are the best


def test_picks_that_are_not_those_of_the_scores_are_found(tmp_path: Path) -> None:
    _, quantized = made(queries)
    path = export_onnx(quantized, (batches()[0],), tmp_path / "m.onnx")
    file = onnx.load(path)
    (node,) = (one for one in file.graph.node if one.op_type == "TopK")
    node.attribute.append(onnx.helper.make_attribute("largest", 0))
    onnx.save(file, path)
    parity = verify_onnx(path, quantized, batches(1))
    assert not parity.only_ties
    assert "what 'TopK' picks does not follow from its scores" in str(parity)


def test_other_scores_are_found_where_the_picks_are_followed(tmp_path: Path) -> None:
    _, quantized = made(classes)
    path = export_onnx(quantized, (batches()[0],), tmp_path / "m.onnx")
    file = onnx.load(path)
    bias = next(one for one in file.graph.initializer if one.name == "scores.conv.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 3, bias.name))
    onnx.save(file, path)
    assert not verify_onnx(path, quantized, batches(1)).only_ties


def test_an_order_that_cannot_be_followed_leaves_its_outputs_out(tmp_path: Path) -> None:
    model, quantized = made(queries)
    path = export_onnx(quantized, (batches()[0],), tmp_path / "m.onnx")

    class Unsorted(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            scores, boxes = model(x)
            scores.topk(1, -1)
            return scores, boxes

    parity = verify_onnx(path, Unsorted(), batches(1), stubs=False)
    assert list(parity.outputs) == ["output_0"]
    assert "could not be followed" in str(parity)


def test_every_output_has_a_figure_of_its_own(tmp_path: Path) -> None:
    model, quantized = made(lambda scores, boxes: (scores, boxes))
    path = export_onnx(quantized, (batches()[0],), tmp_path / "m.onnx")
    parity = verify_onnx(path, model, batches(1), stubs=False)
    with torch.no_grad():
        wanted = [model(one) for one in batches(1)]
    noise = [torch.stack([one[index] for one in wanted]) for index in (0, 1)]
    assert [one.values for one in parity.outputs.values()] == [one.numel() for one in noise]
    one, other = parity.outputs.values()
    assert one.signal == pytest.approx(float(noise[0].double().square().sum()), rel=1e-6)
    assert other.signal == pytest.approx(float(noise[1].double().square().sum()), rel=1e-6)
    assert one.sqnr_db > other.sqnr_db + 20  # 5 was added to all scores
    assert f"output_1 {other.sqnr_db:.1f}" in str(parity)
