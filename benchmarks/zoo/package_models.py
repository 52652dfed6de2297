"""Small models of other packages, where they are installed: segmentation, volumes, images, text."""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.zoo.entry import Built, Entry, images

PACKAGES = {
    "smp": "segmentation_models_pytorch",
    "monai": "monai",
    "spandrel": "spandrel",
    "doctr": "doctr",
    "open_clip": "open_clip",
}
"""Sources and the packages that they import."""


@dataclass(frozen=True)
class _Model:
    """One model: what it is for, its class in a module, how it is made, the shape of its input."""

    task: str
    module: str
    kind: str
    options: dict[str, Any]
    shape: tuple[int, ...]
    vocabulary: int = 0


def _smp(kind: str, encoder: str, size: int = 64, **options: Any) -> _Model:
    options |= {"encoder_name": encoder, "encoder_weights": None, "classes": 3}
    return _Model("segmentation", "segmentation_models_pytorch", kind, options, (3, size, size))


def _monai(task: str, kind: str, shape: tuple[int, ...], **options: Any) -> _Model:
    return _Model(task, "monai.networks.nets", kind, options, shape)


def _spandrel(kind: str, module: str = "", **options: Any) -> _Model:
    name = f"spandrel.architectures.{module or kind}"
    channels = options.pop("channels", 3)
    return _Model("super-resolution", name, kind, options, (channels, 32, 32))


def _doctr(task: str, kind: str, shape: tuple[int, ...]) -> _Model:
    options: dict[str, Any] = {"pretrained": False, "exportable": True}
    if task == "detection" or kind.startswith("crnn"):
        options["pretrained_backbone"] = False
    return _Model("text in images", f"doctr.models.{task}", kind, options, shape)


_VOLUME, _SLICE = (1, 32, 32, 32), (1, 64, 64)
_STAGES = {"in_channels": 1, "out_channels": 2, "channels": (8, 16, 32), "strides": (2, 2)}
_WINDOWS: dict[str, Any] = {
    "depths": [2, 2],
    "num_heads": [2, 2],
    "embed_dim": 16,
    "window_size": 8,
}
_TEXT = {"context_length": 16, "vocab_size": 100, "width": 64, "layers": 2, "heads": 4}
_CLIP = {"embed_dim": 64, "text_cfg": _TEXT}
_PATCHES = {"image_size": 64, "patch_size": 16, "width": 64, "layers": 2, "head_width": 16}
_RESNET = {"image_size": 64, "width": 16, "layers": (1, 1, 1, 1)}

_LINE, _PAGE = (3, 32, 128), (3, 128, 128)

MODELS = {
    "smp:unet": _smp("Unet", "resnet18"),
    "smp:unet-scse": _smp("Unet", "mobilenet_v2", decoder_attention_type="scse"),
    "smp:unetplusplus": _smp("UnetPlusPlus", "resnet18"),
    "smp:manet": _smp("MAnet", "resnet18"),
    "smp:linknet": _smp("Linknet", "efficientnet-b0"),
    "smp:fpn": _smp("FPN", "mobilenet_v2"),
    "smp:pspnet": _smp("PSPNet", "resnet18"),
    "smp:pan": _smp("PAN", "resnet18", 128),
    "smp:deeplabv3": _smp("DeepLabV3", "resnet18"),
    "smp:deeplabv3plus": _smp("DeepLabV3Plus", "mobilenet_v2"),
    "smp:upernet": _smp("UPerNet", "resnet18"),
    "smp:segformer": _smp("Segformer", "mit_b0"),
    "smp:dpt": _smp("DPT", "tu-vit_tiny_patch16_224", 224, dynamic_img_size=False),
    "monai:unet": _monai("volumes", "UNet", _VOLUME, spatial_dims=3, **_STAGES),
    "monai:unet-2d": _monai(
        "medical images", "UNet", _SLICE, spatial_dims=2, num_res_units=2, **_STAGES
    ),
    "monai:attention-unet": _monai("volumes", "AttentionUnet", _VOLUME, spatial_dims=3, **_STAGES),
    "monai:basic-unet": _monai(
        "volumes", "BasicUNet", _VOLUME, spatial_dims=3, features=(8, 8, 16, 32, 32, 8)
    ),
    "monai:segresnet": _monai("volumes", "SegResNet", _VOLUME, init_filters=8),
    "monai:dynunet": _monai(
        "medical images",
        "DynUNet",
        _SLICE,
        spatial_dims=2,
        in_channels=1,
        out_channels=2,
        kernel_size=[3, 3, 3],
        strides=[1, 2, 2],
        upsample_kernel_size=[2, 2],
        filters=[8, 16, 32],
    ),
    "monai:vnet": _monai("volumes", "VNet", _VOLUME),
    "monai:densenet": _monai(
        "volumes",
        "DenseNet",
        _VOLUME,
        spatial_dims=3,
        in_channels=1,
        out_channels=2,
        init_features=16,
        growth_rate=8,
        block_config=(2, 2),
    ),
    "monai:unetr": _monai(
        "volumes",
        "UNETR",
        _VOLUME,
        in_channels=1,
        out_channels=2,
        img_size=32,
        feature_size=8,
        hidden_size=48,
        mlp_dim=96,
        num_heads=4,
    ),
    "monai:vit": _monai(
        "volumes",
        "ViT",
        _VOLUME,
        in_channels=1,
        img_size=32,
        patch_size=8,
        hidden_size=48,
        mlp_dim=96,
        num_layers=2,
        num_heads=4,
    ),
    "spandrel:esrgan": _spandrel("ESRGAN", num_filters=16, num_blocks=2),
    "spandrel:compact": _spandrel("Compact", num_feat=16, num_conv=4),
    "spandrel:span": _spandrel("SPAN", num_in_ch=3, num_out_ch=3, feature_channels=16),
    "spandrel:swinir": _spandrel(
        "SwinIR", img_size=32, upscale=2, upsampler="pixelshuffle", **_WINDOWS
    ),
    "spandrel:swin2sr": _spandrel(
        "Swin2SR", img_size=32, upscale=2, upsampler="pixelshuffle", **_WINDOWS
    ),
    "spandrel:rcan": _spandrel("RCAN", n_resgroups=2, n_resblocks=2, n_feats=16, reduction=4),
    "spandrel:dncnn": _spandrel("DnCNN", channels=1, nc=16, nb=4),
    "spandrel:nafnet": _spandrel(
        "NAFNet", width=8, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1], middle_blk_num=1
    ),
    "spandrel:safmn": _spandrel("SAFMN", dim=16, n_blocks=2),
    "spandrel:plksr": _spandrel("PLKSR", dim=16, n_blocks=2),
    "spandrel:realplksr": _spandrel("RealPLKSR", "PLKSR", dim=16, n_blocks=2),
    "spandrel:mosr": _spandrel("MoSR", dim=16, n_block=2),
    "spandrel:drunet": _spandrel("DRUNet", channels=1, nc=[8, 16, 32, 64], nb=1),
    "doctr:db_mobilenet": _doctr("detection", "db_mobilenet_v3_large", _PAGE),
    "doctr:linknet": _doctr("detection", "linknet_resnet18", _PAGE),
    "doctr:fast": _doctr("detection", "fast_tiny", _PAGE),
    "doctr:crnn": _doctr("recognition", "crnn_mobilenet_v3_small", _LINE),
    "doctr:vitstr": _doctr("recognition", "vitstr_small", _LINE),
    "doctr:parseq": _doctr("recognition", "parseq", _LINE),
    "open_clip:vit": _Model(
        "images and text",
        "open_clip.model",
        "CLIP",
        {**_CLIP, "vision_cfg": _PATCHES},
        (3, 64, 64),
        100,
    ),
    "open_clip:resnet": _Model(
        "images and text",
        "open_clip.model",
        "CLIP",
        {**_CLIP, "vision_cfg": _RESNET},
        (3, 64, 64),
        100,
    ),
}


def entries(source: str) -> Callable[[Path], list[Entry]]:
    """The models of one source; none where its package is not installed."""

    def found(_: Path) -> list[Entry]:
        if importlib.util.find_spec(PACKAGES[source]) is None:
            return []
        own = {name: one for name, one in MODELS.items() if name.partition(":")[0] == source}
        return [Entry(name, one.task) for name, one in own.items()]

    return found


def build(entry: Entry) -> Built:
    """The model with random weights."""
    one = MODELS[entry.name]
    model = getattr(importlib.import_module(one.module), one.kind)(**one.options)

    def draw(batch: int) -> Any:
        given = [images(batch, *one.shape)]
        if one.vocabulary:
            given.append(torch.randint(1, one.vocabulary, (batch, 16)))
        return tuple(given), {}

    return Built(model, draw)
