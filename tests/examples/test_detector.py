"""The detector: its data, its judge, its training, and the file that is made of it."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from embedl_deploy.export import Evaluation, Parity
from examples.detector.__main__ import deploy
from examples.detector.data import IMAGE_SIZE, Scene, Shapes, mask, shapes
from examples.detector.evaluate import (
    Found,
    average_precision,
    detections,
    iou,
    mean_average_precision,
)
from examples.detector.model import STRIDES, Detector
from examples.detector.train import Recipe, assign, giou, trained

FEW = Recipe(images=16, epochs=70, batch_size=16)


@pytest.fixture(scope="module")
def losses() -> list[float]:
    return []


@pytest.fixture(scope="module")
def model(losses: list[float]) -> Iterator[Detector]:
    """A detector that knows sixteen images by heart."""
    with torch.random.fork_rng(devices=[]):
        yield trained(FEW, lambda _epoch, _epochs, loss: losses.append(loss))


@pytest.fixture(scope="module")
def deployed(
    model: Detector, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Evaluation, Parity]:
    known = shapes(FEW.images, seed=1)
    return deploy(model, tmp_path_factory.mktemp("out") / "detector.onnx", known, known)[1:]


def test_the_same_seed_gives_the_same_images() -> None:
    once, again, other = shapes(3, 5), shapes(3, 5), shapes(3, 6)
    assert torch.equal(once.images, again.images)
    assert not torch.equal(once.images, other.images)


def test_a_box_is_as_large_as_what_is_drawn_in_it() -> None:
    box = torch.tensor([8.0, 12.0, 32.0, 36.0])
    for label in range(3):
        y, x = mask(box, label).nonzero().unbind(1)
        drawn = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1])
        assert (drawn - box).abs().max() <= 1


def test_shapes_do_not_touch() -> None:
    for scene in shapes(20, 0).scenes:
        assert (scene.boxes >= 0).all()
        assert (scene.boxes <= IMAGE_SIZE).all()
        assert torch.equal(iou(scene.boxes, scene.boxes) > 0, torch.eye(len(scene.boxes)) > 0)


def test_every_shape_has_places_that_learn_it() -> None:
    model = Detector()
    for scene in shapes(40, 0).scenes:
        labels, boxes = assign(model.places, model.strides, scene)
        learned = {tuple(box.tolist()) for box in boxes[labels >= 0]}
        assert learned == {tuple(box.tolist()) for box in scene.boxes}
        inside = (model.places > boxes[:, :2]) & (model.places < boxes[:, 2:])
        assert inside[labels >= 0].all()


def test_the_losses_of_boxes_are_those_of_the_paper() -> None:
    one, same = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[0.0, 0, 2, 2]])
    apart, half = torch.tensor([[2.0, 2, 4, 4]]), torch.tensor([[1.0, 0, 3, 2]])
    assert giou(one, same).item() == 0
    # Nothing in common, and the two fill half of the box around them.
    assert giou(one, apart).item() == pytest.approx(1 - 0 + (16 - 8) / 16)
    assert giou(one, half).item() == pytest.approx(1 - 2 / 6)


def test_of_boxes_that_overlap_the_surest_is_kept() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 1, 10, 11], [0, 0, 10, 10], [20, 20, 30, 30]])
    logits = torch.tensor([[1.0, -9, -9], [2, -9, -9], [-9, 0, -9], [-9, -9, -9]])
    found = detections(logits, boxes)
    assert found.labels.tolist() == [0, 1]  # another class may overlap; the last is not sure
    assert torch.equal(found.boxes, boxes[[1, 2]])
    assert found.scores.tolist() == torch.tensor([2.0, 0.0]).sigmoid().tolist()


def test_average_precision_by_hand() -> None:
    here = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    scene = Scene(here, torch.tensor([0, 0]))
    nowhere = torch.tensor([[10.0, 10, 20, 20]])
    # Right, wrong, right: precision 1 to recall 1/2, and 2/3 to recall 1.
    found = Found(
        torch.cat([here[:1], nowhere, here[1:]]),
        torch.zeros(3).long(),
        torch.tensor([0.9, 0.8, 0.7]),
    )
    assert average_precision([found], [scene], 0, 0.5) == pytest.approx(0.5 + 0.5 * 2 / 3)
    # A box that is found twice counts once.
    twice = Found(here[[0, 0, 1]], torch.zeros(3).long(), torch.tensor([0.9, 0.8, 0.7]))
    assert average_precision([twice], [scene], 0, 0.5) == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert average_precision([found], [scene], 1, 0.5) == 0


@pytest.mark.parametrize(("moved", "right"), [(0.0, 10), (0.1, 7), (0.5, 0)])
def test_the_judge_knows_a_perfect_model_and_one_that_is_off(moved: float, right: int) -> None:
    data = shapes(30, 3)
    rest = iter(data.scenes)

    def predict(images: Tensor) -> tuple[Tensor, Tensor]:
        logits, boxes = torch.full((len(images), 4, 3), -9.0), torch.zeros(len(images), 4, 4)
        for index in range(len(images)):
            scene = next(rest)
            count, side = len(scene.labels), scene.boxes[:, 2] - scene.boxes[:, 0]
            logits[index, range(count), scene.labels] = 9
            boxes[index, :count] = scene.boxes + moved * side[:, None] * torch.tensor([1, 0, 1, 0])
        return logits, boxes

    # Moved by a tenth the overlap is 0.9 / 1.1 = 0.818, so 7 of the 10 thresholds are met.
    found = mean_average_precision(predict, data, batch_size=7)
    assert found["mAP"] == pytest.approx(right / 10)
    assert found["mAP50"] == (1 if right else 0)


def test_the_model_gives_boxes_of_any_batch() -> None:
    places = sum((IMAGE_SIZE // stride) ** 2 for stride in STRIDES)
    logits, boxes = Detector().eval()(torch.zeros(2, 3, IMAGE_SIZE, IMAGE_SIZE))
    assert logits.shape == (2, places, 3)
    assert boxes.shape == (2, places, 4)
    assert (boxes[..., 2:] > boxes[..., :2]).all()


def test_it_learns_what_it_sees(model: Detector, losses: list[float]) -> None:
    assert losses[-1] < losses[0] / 4
    assert mean_average_precision(model, shapes(FEW.images, seed=1))["mAP50"] > 0.8


def test_int8_finds_what_float_finds(deployed: tuple[Evaluation, Parity]) -> None:
    evaluation, parity = deployed
    assert parity.only_ties
    assert evaluation.model["mAP50"] > 0.8
    assert evaluation.file["mAP50"] > evaluation.model["mAP50"] - 0.1


def test_parts_are_all_of_the_data() -> None:
    data = shapes(5, 0)
    parts = list(data.batches(2))
    assert [len(part.scenes) for part in parts] == [2, 2, 1]
    assert torch.equal(torch.cat([part.images for part in parts]), data.images)
    drawn = next(iter(Shapes(data.images, data.scenes).batches(5, torch.Generator())))
    assert sorted(map(id, drawn.scenes)) == sorted(map(id, data.scenes))
