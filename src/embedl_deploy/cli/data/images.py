"""A folder of images becomes batches of normalised tensors."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from embedl_deploy.cli.data.batches import SizedBatches, spans
from embedl_deploy.errors import LoadError, MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["IMAGENET", "Normalization", "from_folder", "normalization_of"]

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Normalization:
    """Pixels in 0..1 become `(pixel - mean) / std`, channel by channel.

    For grey images the values of three channels are averaged.

    Raises:
        LoadError: There are neither one nor three values of each, or a `std` is not above 0.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in {1, 3}:
                raise LoadError(f"{name} needs one value or three, and has {len(values)}")
        if min(self.std) <= 0:
            raise LoadError(f"std must be above 0, and is {self.std}")

    def __call__(self, pixels: Tensor) -> Tensor:
        mean, std = (_per_channel(values, len(pixels)) for values in (self.mean, self.std))
        return (pixels - mean) / std


IMAGENET = Normalization()
"""What models trained on ImageNet expect."""


def normalization_of(model: object) -> Normalization:
    """What a model of timm says that it expects; for others, that of ImageNet."""
    config = getattr(model, "pretrained_cfg", None)
    if not isinstance(config, Mapping) or not (config.get("mean") and config.get("std")):
        return IMAGENET
    return Normalization(tuple(config["mean"]), tuple(config["std"]))


def from_folder(
    folder: Path,
    shape: Sequence[int] | None,
    batch_size: int,
    limit: int | None,
    normalization: Normalization | None,
) -> SizedBatches:
    """All images under a folder, scaled and cut at the centre to `shape`, come in batches.

    Raises:
        LoadError: The shape is not that of an image, or the folder has no images.
    """
    return from_paths(image_paths(folder, limit), shape, batch_size, normalization)


def from_paths(
    paths: Sequence[Path],
    shape: Sequence[int] | None,
    batch_size: int,
    normalization: Normalization | None,
) -> SizedBatches:
    """Images, scaled and cut at the centre to `shape`, come in batches.

    Raises:
        LoadError: The shape is not that of an image.
    """
    if shape is None or len(shape) != 3 or shape[0] not in {1, 3} or min(shape) < 1:
        raise LoadError(f"images need a shape of (1 or 3, height, width), not {shape}")
    chunks = [paths[start:end] for start, end in spans(len(paths), batch_size)]

    def read() -> Iterator[Tensor]:
        for chunk in chunks:
            yield torch.stack([_read_image(path, shape, normalization) for path in chunk])

    return SizedBatches(read, len(chunks))


def image_paths(folder: Path, limit: int | None) -> list[Path]:
    """The images under a folder in sorted order; so many at most, evenly spaced.

    Raises:
        LoadError: There are none.
    """
    files = (path for path in folder.rglob("*") if path.is_file())
    paths = sorted(path for path in files if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise LoadError(f"the folder '{folder}' has no images ({' '.join(_SUFFIXES)})")
    if limit is None or limit >= len(paths):
        return paths
    return [paths[index * len(paths) // limit] for index in range(limit)]


def _read_image(path: Path, shape: Sequence[int], normalization: Normalization | None) -> Tensor:
    pixels = _read_pixels(path, shape)
    return pixels if normalization is None else normalization(pixels)


def _read_pixels(path: Path, shape: Sequence[int]) -> Tensor:
    try:
        import numpy as np
        from PIL import Image, ImageOps
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), "cli", "reading images") from None
    channels, height, width = shape
    try:
        with Image.open(path) as opened:
            image = _eight_bits(opened, path).convert("L" if channels == 1 else "RGB")
        fitted = ImageOps.fit(image, (width, height), method=Image.Resampling.BILINEAR)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise LoadError(
            f"'{path}' is not an image that can be read, so repair or remove it: {error}"
        ) from None
    pixels = torch.from_numpy(np.array(fitted, dtype=np.float32) / 255)
    return pixels.view(height, width, channels).permute(2, 0, 1).contiguous()


def _eight_bits(image: "Image", path: Path) -> "Image":
    if image.mode.startswith(("I", "F")):  # Pillow would cut these off at 255
        raise LoadError(f"'{path}' has more than 8 bits a channel: convert it to 8 bits first")
    return image


def _per_channel(values: tuple[float, ...], channels: int) -> Tensor:
    if channels == 1:
        values = (sum(values) / len(values),)
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)
