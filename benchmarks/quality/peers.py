"""Quantizes a model with one setting of another tool; runs in an environment of the tools' own.

`python peers.py SETTING FOLDER` reads `float.onnx` or `float.pt2` and `calibration.npz` in FOLDER,
writes `SETTING.onnx` there, and prints the version of the tool as its last line.
"""

import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Samples = list[dict[str, np.ndarray[Any, Any]]]
"""Inputs by name, each for a batch of one."""


def main(setting: str, folder: Path) -> None:
    """Quantize, write, and print the version."""
    with np.load(folder / "calibration.npz") as stored:
        parts = {name: np.split(values, len(values)) for name, values in stored.items()}
    samples = [dict(zip(parts, one, strict=True)) for one in zip(*parts.values(), strict=True)]
    package, quantize, options = (SETTINGS | COMPILED)[setting]
    warnings.simplefilter("ignore")
    quantize(folder, samples, folder / f"{setting}.onnx", options)
    print(f"{package} {version(package)}")


def by_onnx_runtime(folder: Path, samples: Samples, target: Path, options: dict[str, Any]) -> None:
    """`quantize_static`, after the preparation that its documentation asks for."""
    import onnxruntime.quantization as tool
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(tool.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rows: Iterator[Any] = iter(samples)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.rows, None)

    prepared = folder / "prepared.onnx"
    quant_pre_process(folder / "float.onnx", prepared, skip_symbolic_shape=True)
    tool.quantize_static(prepared, target, Reader(), **options)


def by_nncf(folder: Path, samples: Samples, target: Path, options: dict[str, Any]) -> None:
    """`nncf.quantize` of the ONNX file."""
    import onnx

    nncf = import_module("nncf")

    settings = dict(options)
    if settings.pop("signed", False):
        _force_signs()
    for name, kind in (("model_type", nncf.ModelType), ("preset", nncf.QuantizationPreset)):
        if name in settings:
            settings[name] = kind[settings[name]]
    data = nncf.Dataset(samples)
    source = onnx.load(folder / "float.onnx")
    onnx.save(nncf.quantize(source, data, subset_size=len(samples), **settings), target)


def by_model_optimizer(
    folder: Path, samples: Samples, target: Path, options: dict[str, Any]
) -> None:
    """`modelopt.onnx.quantization.quantize`, on the CPU."""
    tool = import_module("modelopt.onnx.quantization")
    tool.quantize(
        str(folder / "float.onnx"),
        calibration_data={
            name: np.concatenate([one[name] for one in samples]) for name in samples[0]
        },
        calibration_eps=["cpu"],
        output_path=str(target),
        **options,
    )


def by_pt2e(folder: Path, samples: Samples, target: Path, make: Callable[[], Any]) -> None:
    """`prepare_pt2e` and `convert_pt2e` of the exported program."""
    import torch

    tool = import_module("torchao.quantization.pt2e.quantize_pt2e")
    model = tool.prepare_pt2e(torch.export.load(folder / "float.pt2").module(), make())
    rows = [tuple(map(torch.from_numpy, one.values())) for one in samples]
    with torch.no_grad():
        for row in rows:
            model(*row)
        exported = torch.export.export(tool.convert_pt2e(model), rows[0])
        program = torch.onnx.export(exported, opset_version=20, verbose=False)
    assert program is not None
    program.save(target, external_data=False)


def _x86() -> Any:
    tool = import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    return tool.X86InductorQuantizer().set_global(
        tool.get_default_x86_inductor_quantization_config()
    )


def _symmetric_xnnpack() -> Any:
    """The quantizer that the tool is tested with, whose activations are made symmetric."""
    import torch

    tool = import_module("torchao.testing.pt2e._xnnpack_quantizer")
    from dataclasses import replace

    config = tool.get_symmetric_quantization_config(is_per_channel=True)
    spec = replace(config.input_activation, qscheme=torch.per_tensor_symmetric)
    config = replace(config, input_activation=spec, output_activation=spec)
    return tool.XNNPACKQuantizer().set_global(config)


def _force_signs() -> None:
    """Give activations a sign where nothing is negative, which the tool's tables refuse."""
    spaces = import_module("nncf.common.hardware.qspaces")
    for space in (spaces.q8_a, spaces.q8_a_ch, spaces.q8_a_sym):
        object.__setattr__(space, "signedness_to_force", True)


_SYMMETRIC = {"extra_options": {"ActivationSymmetric": True, "WeightSymmetric": True}}

SETTINGS: dict[str, tuple[str, Callable[..., None], Any]] = {
    "onnxruntime-symmetric": (
        "onnxruntime",
        by_onnx_runtime,
        {"per_channel": True, **_SYMMETRIC},
    ),
    "onnxruntime-default": ("onnxruntime", by_onnx_runtime, {}),
    "nncf-symmetric": ("nncf", by_nncf, {"signed": True}),
    "nncf-transformer": (
        "nncf",
        by_nncf,
        {"signed": True, "model_type": "TRANSFORMER", "preset": "PERFORMANCE"},
    ),
    "nncf-default": ("nncf", by_nncf, {}),
    "modelopt-symmetric": (
        "nvidia-modelopt",
        by_model_optimizer,
        {"calibration_method": "max", "high_precision_dtype": "fp32"},
    ),
    "modelopt-entropy": (
        "nvidia-modelopt",
        by_model_optimizer,
        {"calibration_method": "entropy", "high_precision_dtype": "fp32"},
    ),
    "pt2e-symmetric": ("torchao", by_pt2e, _symmetric_xnnpack),
    "pt2e-default": ("torchao", by_pt2e, _x86),
}
"""The package, how it is called, and with what."""

_FLOAT_BIAS = {"extra_options": {**_SYMMETRIC["extra_options"], "QuantizeBias": False}}
COMPILED: dict[str, tuple[str, Callable[..., None], Any]] = {
    "onnxruntime-float-bias": (
        "onnxruntime",
        by_onnx_runtime,
        {"per_channel": True, **_FLOAT_BIAS},
    ),
    "onnxruntime-products": (
        "onnxruntime",
        by_onnx_runtime,
        {
            "per_channel": True,
            "op_types_to_quantize": ["Conv", "Gemm", "MatMul"],
            **_FLOAT_BIAS,
        },
    ),
    "modelopt-half": (
        "nvidia-modelopt",
        by_model_optimizer,
        {"calibration_method": "max", "high_precision_dtype": "fp16"},
    ),
}
"""For NVIDIA's compiler, which refuses biases of INT32; the last one's files are half precision."""


def is_for(setting: str, model: str) -> bool:
    """Whether a setting is meant for a model of torchvision."""
    return setting != "nncf-transformer" or model in {"vit_b_16", "swin_t"}


def needs_own(setting: str) -> bool:
    """Whether the tool is none that this library uses too."""
    return setting in SETTINGS | COMPILED and not setting.startswith("onnxruntime")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
