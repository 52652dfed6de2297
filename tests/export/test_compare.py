"""A file against the model in floating point: outputs, what comes before them, and answers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from embedl_deploy import Result, transform
from embedl_deploy.errors import VerificationError
from embedl_deploy.export import Accuracy, OnnxModel, compare_onnx, evaluate_onnx, export_onnx
from embedl_deploy.quantize import quantize


class Detector(nn.Module):
    """Boxes with large anchors, and scores of classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.box = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.head = nn.Linear(8, 7)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.stem(x).relu()
        boxes = self.box(y).flatten(2).transpose(1, 2).relu()
        anchors = torch.arange(64.0)[None, :, None] * 8
        return {"boxes": boxes + anchors, "scores": self.head(y.mean((2, 3)))}


def batches(rows: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(rows, 3, 8, 8, generator=generator) for _ in range(3)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, fx.GraphModule, Path]:
    torch.manual_seed(0)
    result = transform(Detector().eval(), (batches()[0],))
    quantized = quantize(result, batches())
    path = tmp_path_factory.mktemp("made") / "model.onnx"
    return result, quantized, export_onnx(quantized, (batches()[0][:2],), path)


def at(model: fx.GraphModule, path: str, x: Tensor) -> Tensor:
    found: list[Tensor] = []
    hook = model.get_submodule(path).register_forward_hook(lambda *one: found.append(one[2]))
    with torch.no_grad():
        model(x)
    hook.remove()
    return found[0].double()


def test_what_anchors_hide_is_said_at_the_last_product(
    made: tuple[Result, fx.GraphModule, Path],
) -> None:
    result, quantized, path = made
    parity = compare_onnx(path, result.model, batches())
    assert parity.samples == 12
    assert parity.products["box"].outputs == ("output_0",)
    pairs = [(at(result.model, "box", x), at(quantized, "box", x)) for x in batches()]
    signal = sum(float(one.square().sum()) for one, _ in pairs)
    noise = sum(float((one - other).square().sum()) for one, other in pairs)
    product = parity.products["box"]
    # the file sums in another order, and a tie may fall to the other side
    assert product.signal == pytest.approx(signal, rel=1e-5)
    assert product.noise == pytest.approx(noise, rel=0.02)
    assert parity.outputs["output_0"].sqnr_db > product.sqnr_db + 20


def test_answers_are_compared_and_judged(made: tuple[Result, fx.GraphModule, Path]) -> None:
    result, _, path = made
    runtime = OnnxModel(path)
    with torch.no_grad():
        scores = [result.model(x)["scores"] for x in batches()]
    computed = [runtime(x[i : i + 2])["output_1"] for x in batches() for i in (0, 2)]
    labels = [one.argmax(1) for one in scores]
    labels[0] = (labels[0] + 1) % 7  # the model is wrong there
    pairs = zip(batches(), labels, strict=True)
    parity = compare_onnx(path, result.model, list(pairs), labelled=True)
    output = parity.outputs["output_1"]
    same = int((torch.cat(scores).argmax(1) == torch.cat(computed).argmax(1)).sum())
    assert (output.rows, output.same_top) == (12, same)
    assert parity.outputs["output_0"].agreement is None
    right = int((torch.cat(computed).argmax(1) == torch.cat(labels)).sum())
    accuracy = parity.accuracy
    assert (accuracy.samples, accuracy.model_top1, accuracy.file_top1) == (12, 8, right)
    assert 8 <= accuracy.model_top5 <= 12


def test_intervals_are_those_of_wilson() -> None:
    # Wilson's interval in 95 of 100 cases, as tabulated: 10 of 10 is 0.722 to 1, 5 of 10 symmetric
    low, high = Accuracy(samples=10).interval(10)
    assert low == pytest.approx(0.7225, abs=1e-3)
    assert high == pytest.approx(1.0)
    low, high = Accuracy(samples=10).interval(5)
    assert low == pytest.approx(0.2366, abs=1e-3)
    assert low + high == pytest.approx(1.0)


@pytest.mark.parametrize("labels", [torch.tensor([0, 7]), torch.tensor([-1, 0])])
def test_labels_that_are_no_classes_are_an_error(labels: Tensor) -> None:
    with pytest.raises(VerificationError, match="tells 7 classes apart"):
        Accuracy().add(labels, torch.zeros(2, 7), torch.zeros(2, 7))


def test_a_function_of_ones_own_judges_both(made: tuple[Result, fx.GraphModule, Path]) -> None:
    result, _, path = made
    seen: list[Any] = []

    def largest(predict: Any) -> dict[str, float]:
        found = predict(batches()[0])
        seen.append(found)
        return {"largest": float(found["boxes"].max()), "rows": len(found["scores"])}

    found = evaluate_onnx(path, result.model, largest)
    assert found.model == {"largest": float(seen[0]["boxes"].max()), "rows": 4}
    assert found.file == {"largest": float(seen[1]["boxes"].max()), "rows": 4}
    assert not torch.equal(seen[0]["boxes"], seen[1]["boxes"])
    assert evaluate_onnx(path, result.model, lambda _: 3).file == {"score": 3.0}
    for wrong, said in ((lambda _: "good", "gave str"), (lambda _: 1 / 0, "ZeroDivisionError")):
        with pytest.raises(VerificationError, match=said):
            evaluate_onnx(path, result.model, wrong)  # type: ignore[arg-type]
