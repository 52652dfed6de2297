"""Scikit-learn's handwritten digits as tensors: 1,797 real scans, installed with scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional as F

IMAGE_SIZE = 16
NUM_CLASSES = 10
TEST_FRACTION = 0.3
SPLIT_SEED = 0
MAX_GRAY = 16.0


@dataclass(frozen=True)
class Digits:
    """The fixed split. Images are float32 `(N, 1, size, size)`, labels int64 `(N,)`.

    The indices say which scan of scikit-learn's data set each image is.
    """

    train_images: Tensor
    train_labels: Tensor
    train_indices: Tensor
    test_images: Tensor
    test_labels: Tensor
    test_indices: Tensor


def digits(size: int = IMAGE_SIZE) -> Digits:
    """The digits, 30 % of each class held out, scaled up bilinearly from 8×8 to `size`.

    Mean and standard deviation for the normalization are those of the training images.
    """
    bunch = load_digits()
    labels = torch.from_numpy(np.asarray(bunch.target, dtype=np.int64))
    train, test = split(labels)
    images = _scaled(torch.from_numpy(np.asarray(bunch.images, dtype=np.float32)), size)
    mean, deviation = images[train].mean(), images[train].std()
    images = (images - mean) / deviation
    return Digits(images[train], labels[train], train, images[test], labels[test], test)


def split(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the training and of the test images, both with the class shares of `labels`."""
    train, test = train_test_split(
        np.arange(len(labels)),
        test_size=TEST_FRACTION,
        stratify=labels.numpy(),
        random_state=SPLIT_SEED,
    )
    return torch.from_numpy(train), torch.from_numpy(test)


def calibration_batches(
    data: Digits, *, images: int = 256, batch_size: int = 32, seed: int = 0
) -> tuple[Tensor, ...]:
    """Batches of randomly chosen training images, for the calibration of quantizers.

    No test image is among them. At most as many images come as there are training images.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(data.train_images), generator=generator)[:images]
    return tuple(torch.split(data.train_images[chosen], batch_size))


def _scaled(images: Tensor, size: int) -> Tensor:
    unit = images.unsqueeze(1) / MAX_GRAY
    if unit.shape[-1] == size:
        return unit
    return F.interpolate(unit, size=(size, size), mode="bilinear", align_corners=False)
