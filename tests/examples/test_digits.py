"""The digits example: its data, its models and its training."""

import dataclasses
import logging
from pathlib import Path

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from examples.digits import train as training
from examples.digits.data import NUM_CLASSES, Digits, calibration_batches, digits
from examples.digits.models import MODELS
from examples.digits.train import RECIPES, Recipe, accuracy, shifted, train, trained

ONE_EPOCH = Recipe(epochs=1)


@pytest.fixture(scope="module")
def data() -> Digits:
    return digits()


@pytest.fixture
def few(data: Digits) -> Digits:
    images, labels = data.train_images[:128], data.train_labels[:128]
    return dataclasses.replace(data, train_images=images, train_labels=labels)


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]()


@torch.no_grad()
def loss_on(model: nn.Module, data: Digits) -> float:
    return F.cross_entropy(model(data.train_images[:256]), data.train_labels[:256]).item()


def test_the_split_is_disjoint_and_complete(data: Digits) -> None:
    indices = torch.cat([data.train_indices, data.test_indices])
    assert indices.sort().values.tolist() == list(range(1797))
    assert len(data.test_images) >= 0.25 * 1797


def test_the_split_is_stratified(data: Digits) -> None:
    train_shares = data.train_labels.bincount(minlength=NUM_CLASSES) / len(data.train_labels)
    test_shares = data.test_labels.bincount(minlength=NUM_CLASSES) / len(data.test_labels)
    assert (train_shares - test_shares).abs().max() < 0.01


def test_the_split_is_the_same_every_time(data: Digits) -> None:
    assert torch.equal(digits().test_indices, data.test_indices)


def test_images_are_normalized_by_the_training_images(data: Digits) -> None:
    assert data.train_images.shape[1:] == data.test_images.shape[1:] == (1, 16, 16)
    assert data.train_images.mean().abs() < 1e-5
    assert (data.train_images.std() - 1).abs() < 1e-5


@pytest.mark.parametrize("size", [8, 32])
def test_images_come_in_other_sizes(size: int) -> None:
    assert digits(size).test_images.shape[1:] == (1, size, size)


def test_calibration_batches_are_training_images(data: Digits) -> None:
    batches = calibration_batches(data, images=100, batch_size=32)
    assert [len(batch) for batch in batches] == [32, 32, 32, 4]
    known = {tuple(image.flatten().tolist()) for image in data.train_images}
    assert all(tuple(image.flatten().tolist()) in known for image in torch.cat(batches))


def test_a_shift_by_nothing_changes_nothing(data: Digits) -> None:
    images = data.train_images[:8]
    torch.testing.assert_close(shifted(images, 0.0), images, atol=1e-5, rtol=0)


def test_a_shift_moves_each_image_on_its_own(data: Digits) -> None:
    torch.manual_seed(0)
    moved = shifted(data.train_images[:1].repeat(8, 1, 1, 1), 2.0)
    assert len({tuple(image.flatten().tolist()) for image in moved}) == 8


@pytest.mark.parametrize("name", MODELS)
def test_a_model_traces(name: str, data: Digits) -> None:
    model = made(name).eval()
    traced = fx.symbolic_trace(model)
    images = data.test_images[:4]
    assert model(images).shape == (4, NUM_CLASSES)
    torch.testing.assert_close(traced(images), model(images))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_takes_any_batch_size(name: str, data: Digits) -> None:
    model = made(name).eval()
    singly = torch.cat([model(image) for image in torch.split(data.test_images[:3], 1)])
    torch.testing.assert_close(model(data.test_images[:3]), singly, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_one_epoch_lowers_the_loss(name: str, data: Digits) -> None:
    model = made(name)
    before = loss_on(model, data)
    (during,) = train(model, data, ONE_EPOCH)
    assert during < before
    assert loss_on(model, data) < before


def test_training_repeats_and_leaves_the_random_state(few: Digits) -> None:
    first, second = made("residual"), made("residual")
    state = torch.get_rng_state()
    assert train(first, few, ONE_EPOCH) == train(second, few, ONE_EPOCH)
    assert torch.equal(torch.get_rng_state(), state)


def test_training_reports_each_epoch(few: Digits) -> None:
    reports: list[tuple[int, int, float]] = []
    losses = train(
        made("mobile"), few, Recipe(epochs=2), progress=lambda *report: reports.append(report)
    )
    assert reports == [(1, 2, losses[0]), (2, 2, losses[1])]


def test_accuracy_counts_over_all_batches() -> None:
    outputs = torch.eye(10)
    labels = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 0, 0])
    assert accuracy(nn.Identity(), outputs, labels, batch_size=3) == pytest.approx(0.8)


@pytest.mark.slow
def test_a_second_call_reads_the_cache(
    tmp_path: Path, data: Digits, caplog: pytest.LogCaptureFixture
) -> None:
    first = trained("mobile", tmp_path, recipe=ONE_EPOCH)
    with caplog.at_level(logging.INFO):
        second = trained("mobile", tmp_path, recipe=ONE_EPOCH, progress=_never)
    assert "trained weights from" in caplog.text
    assert not first.training
    assert not second.training
    assert torch.equal(first(data.test_images), second(data.test_images))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
def test_fresh_trains_again_and_renews_the_cache(tmp_path: Path) -> None:
    epochs: list[int] = []
    recipe = Recipe(epochs=1, batch_size=1257)
    for fresh in (False, True):
        trained(
            "residual",
            tmp_path,
            recipe=recipe,
            fresh=fresh,
            progress=lambda epoch, *_: epochs.append(epoch),
        )
    assert epochs == [1, 1]
    assert len(list(tmp_path.iterdir())) == 1


def _never(*_report: object) -> None:
    pytest.fail("trained again")


def test_a_changed_source_or_recipe_misses_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in training.SOURCES:
        (tmp_path / name).write_text("version = 1")
    monkeypatch.setattr(training, "__file__", str(tmp_path / "train.py"))
    keys = {training._key(ONE_EPOCH), training._key(Recipe(epochs=2))}
    for name in training.SOURCES:
        (tmp_path / name).write_text("version = 2")
        keys.add(training._key(ONE_EPOCH))
    assert len(keys) == 5


def test_a_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_args: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space left"):
        training._save(nn.Linear(2, 2), tmp_path / "model.pt")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="'resnet'; there are residual, transformer, mobile"):
        trained("resnet")


def test_every_model_has_a_recipe() -> None:
    assert MODELS.keys() == RECIPES.keys()
