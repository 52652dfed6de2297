"""Models of transformers, small, built from configurations: nothing is downloaded."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.zoo.entry import Built, Entry, Inputs, images

_LAYERS = {"num_hidden_layers": 3, "num_attention_heads": 4}
_TRANSFORMER = {**_LAYERS, "hidden_size": 128, "intermediate_size": 256}
_WORDS = 1000
_LENGTH = 24


@dataclass(frozen=True)
class _Kind:
    """An architecture: its classes, what differs from its default configuration, its inputs."""

    task: str
    model: str
    config: str
    values: Mapping[str, Any]
    draw: Callable[[int], Inputs]


def _pixels(size: int) -> Callable[[int], Inputs]:
    return lambda batch: ((), {"pixel_values": images(batch, 3, size, size)})


def _masked_pixels(batch: int) -> Inputs:
    _, kwargs = _pixels(224)(batch)
    return (), {**kwargs, "pixel_mask": torch.ones(batch, 224, 224, dtype=torch.int64)}


def _words(batch: int) -> Inputs:
    return (), {"input_ids": torch.randint(10, _WORDS, (batch, _LENGTH))}


def _masked_words(batch: int) -> Inputs:
    """The last words of each text are padding."""
    mask = torch.ones(batch, _LENGTH, dtype=torch.int64)
    mask[:, -_LENGTH // 3 :] = 0
    return (), {**_words(batch)[1], "attention_mask": mask}


def _sound(batch: int) -> Inputs:
    return (), {"input_features": torch.randn(batch, 80, 256)}


def _backbone() -> Any:
    config = importlib.import_module("transformers").ResNetConfig
    sizes = {"embedding_size": 32, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 2, 1]}
    return config(**sizes, out_features=["stage4"])


def _rt_backbone() -> Any:
    config = importlib.import_module("transformers").RTDetrResNetConfig
    sizes = {"embedding_size": 32, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 2, 1]}
    return config(**sizes, out_features=["stage2", "stage3", "stage4"])


_SWIN = {"embed_dim": 48, "depths": [2, 2, 2], "num_heads": [2, 4, 8]}
_STAGES = {"hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 2, 1]}
_DETR = {
    "encoder_layers": 2,
    "decoder_layers": 2,
    "d_model": 128,
    "encoder_ffn_dim": 256,
    "decoder_ffn_dim": 256,
    "num_queries": 30,
}
_SPEECH = {
    "d_model": 128,
    "encoder_layers": 3,
    "encoder_ffn_dim": 256,
    "encoder_attention_heads": 4,
}
_DISTILLED = {"dim": 128, "hidden_dim": 256, "n_layers": 3, "n_heads": 4, "vocab_size": _WORDS}
_TEXT = {**_TRANSFORMER, "vocab_size": _WORDS}

KINDS: dict[str, _Kind] = {
    "vit": _Kind("vision", "ViTForImageClassification", "ViTConfig", _TRANSFORMER, _pixels(224)),
    "deit": _Kind("vision", "DeiTForImageClassification", "DeiTConfig", _TRANSFORMER, _pixels(224)),
    "dinov2": _Kind(
        "vision",
        "Dinov2Model",
        "Dinov2Config",
        {**_LAYERS, "hidden_size": 128, "mlp_ratio": 2, "image_size": 224},
        _pixels(224),
    ),
    "dinov3": _Kind("vision", "DINOv3ViTModel", "DINOv3ViTConfig", _TRANSFORMER, _pixels(224)),
    "swin": _Kind("vision", "SwinForImageClassification", "SwinConfig", _SWIN, _pixels(224)),
    "swinv2": _Kind("vision", "Swinv2ForImageClassification", "Swinv2Config", _SWIN, _pixels(224)),
    "convnextv2": _Kind(
        "vision", "ConvNextV2ForImageClassification", "ConvNextV2Config", _STAGES, _pixels(224)
    ),
    "segformer": _Kind(
        "vision",
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        {"depths": [1, 1, 1, 1], "decoder_hidden_size": 64},
        _pixels(224),
    ),
    "clip-vision": _Kind(
        "vision", "CLIPVisionModel", "CLIPVisionConfig", _TRANSFORMER, _pixels(224)
    ),
    "clip-text": _Kind(
        "text",
        "CLIPTextModel",
        "CLIPTextConfig",
        {**_TEXT, "bos_token_id": 0, "eos_token_id": _WORDS - 1},
        _masked_words,
    ),
    "siglip-vision": _Kind(
        "vision", "SiglipVisionModel", "SiglipVisionConfig", _TRANSFORMER, _pixels(224)
    ),
    "bert": _Kind("text", "BertForSequenceClassification", "BertConfig", _TEXT, _masked_words),
    "distilbert": _Kind(
        "text",
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        _DISTILLED,
        _masked_words,
    ),
    "roberta": _Kind(
        "text", "RobertaForSequenceClassification", "RobertaConfig", _TEXT, _masked_words
    ),
    "detr": _Kind(
        "detection",
        "DetrForObjectDetection",
        "DetrConfig",
        {**_DETR, "encoder_attention_heads": 4, "decoder_attention_heads": 4},
        _masked_pixels,
    ),
    "rt-detr": _Kind(
        "detection",
        "RTDetrForObjectDetection",
        "RTDetrConfig",
        {**_DETR, "encoder_hidden_dim": 128, "encoder_in_channels": [64, 96, 128]}
        | {"decoder_in_channels": [128, 128, 128], "encoder_layers": 1, "num_denoising": 0},
        _pixels(256),
    ),
    "whisper-encoder": _Kind(
        "speech",
        "WhisperModel",
        "WhisperConfig",
        {**_SPEECH, "max_source_positions": 128, "decoder_attention_heads": 4},
        _sound,
    ),
    "llama": _Kind(
        "text",
        "LlamaForCausalLM",
        "LlamaConfig",
        {**_TEXT, "num_key_value_heads": 2, "use_cache": False},
        _words,
    ),
}


def entries(_: Path) -> list[Entry]:
    """All of them."""
    return [Entry(f"transformers:{name}", kind.task) for name, kind in KINDS.items()]


def build(entry: Entry) -> Built:
    """The model with random weights, and inputs that it takes by name."""
    transformers = importlib.import_module("transformers")
    kind = KINDS[entry.model]
    values = dict(kind.values)
    if entry.group == "detection":
        values["backbone_config"] = _backbone() if entry.model == "detr" else _rt_backbone()
    model = getattr(transformers, kind.model)(getattr(transformers, kind.config)(**values))
    return Built(model.encoder if entry.model == "whisper-encoder" else model, kind.draw)
