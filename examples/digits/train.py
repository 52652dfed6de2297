"""Training of the digits models with an ordinary loop, and a cache of the trained weights."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.digits.data import Digits, digits
from examples.digits.models import MODELS

logger = logging.getLogger(__name__)

CACHE = Path(".cache/digits")
SOURCES = ("data.py", "models.py", "train.py")

Progress = Callable[[int, int, float], None]
"""Called after each epoch with its number (from 1), the number of epochs and the mean loss."""


@dataclass(frozen=True)
class Recipe:
    """How to train a model. `max_shift` is in pixels, to each side in each direction."""

    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    max_shift: float = 2.0
    seed: int = 0


RECIPES: dict[str, Recipe] = {
    "residual": Recipe(epochs=16),
    "transformer": Recipe(epochs=26, max_shift=1.0),
    "mobile": Recipe(epochs=20),
}


def trained(
    name: str,
    cache: str | os.PathLike[str] | None = None,
    *,
    recipe: Recipe | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
) -> nn.Module:
    """The model called `name`, in eval mode, trained at its first use and read from `cache` later.

    The default cache is `.cache/digits` in the working directory. A file there holds for one
    version of this package's source, one recipe and one version of torch; any other trains anew,
    and so does `fresh`.

    Raises:
        ValueError: `name` is not one of `MODELS`.
    """
    if name not in MODELS:
        raise ValueError(f"no digits model is called {name!r}; there are {', '.join(MODELS)}")
    recipe = RECIPES[name] if recipe is None else recipe
    path = Path(CACHE if cache is None else cache) / f"{name}-{_key(recipe)}.pt"
    model = _made(name, recipe.seed)
    if path.is_file() and not fresh:
        logger.info("%s: trained weights from %s", name, path)
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    train(model, digits(), recipe, progress=progress)
    _save(model, path)
    return model.eval()


def train(
    model: nn.Module, data: Digits, recipe: Recipe, *, progress: Progress | None = None
) -> list[float]:
    """Trains `model` in place on the training images and returns the mean loss of each epoch.

    The same recipe on the same machine gives the same weights; torch's global random state is
    left as it was.
    """
    steps = -(-len(data.train_images) // recipe.batch_size) * recipe.epochs
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=recipe.learning_rate, total_steps=steps
    )
    losses: list[float] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        for epoch in range(1, recipe.epochs + 1):
            losses.append(_epoch(model, data, recipe, optimizer, schedule))
            logger.info("epoch %d of %d: loss %.4f", epoch, recipe.epochs, losses[-1])
            if progress is not None:
                progress(epoch, recipe.epochs, losses[-1])
    return losses


@torch.no_grad()
def accuracy(
    model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, batch_size: int = 256
) -> float:
    """The share of `images` for which the largest output of `model` is at the label.

    A module is evaluated in the mode that it is in; call `eval()` before.
    """
    batches = zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True)
    correct = sum(int((model(x).argmax(dim=1) == y).sum()) for x, y in batches)
    return correct / len(labels)


def _epoch(
    model: nn.Module,
    data: Digits,
    recipe: Recipe,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> float:
    model.train()
    total = 0.0
    for chosen in torch.split(torch.randperm(len(data.train_images)), recipe.batch_size):
        images = shifted(data.train_images[chosen], recipe.max_shift)
        output = model(images)
        labels = data.train_labels[chosen]
        loss = F.cross_entropy(output, labels, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.item() * len(chosen)
    return total / len(data.train_images)


def shifted(images: Tensor, max_shift: float) -> Tensor:
    """Each image moved by a random distance, up to `max_shift` pixels in each direction."""
    matrix = torch.eye(2, 3).repeat(len(images), 1, 1)
    # Grid coordinates run from -1 to 1, so that one pixel is 2 / width.
    matrix[:, :, 2] = (2 * torch.rand(len(images), 2) - 1) * 2 * max_shift / images.shape[-1]
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _made(name: str, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[name]()


def _key(recipe: Recipe) -> str:
    folder = Path(__file__).parent
    parts = [(folder / name).read_bytes() for name in SOURCES]
    parts += [repr(recipe).encode(), torch.__version__.encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _save(model: nn.Module, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".pt")
    os.close(handle)
    try:
        torch.save(model.state_dict(), temporary)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise
