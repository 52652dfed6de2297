"""`import embedl_deploy` needs torch alone."""

import subprocess
import sys

OPTIONAL = (
    "PIL",
    "numpy",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "onnxscript",
    "rich",
    "safetensors",
    "timm",
    "torchvision",
    "transformers",
    "typer",
)


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not done.stderr
    return {name.split(".")[0] for name in done.stdout.split()}


def test_the_library_loads_no_optional_package() -> None:
    by_torch = modules_after("import torch")  # NumPy, where it is installed
    by_us = modules_after("import embedl_deploy, embedl_deploy.tensorrt")
    assert "embedl_deploy" in by_us
    assert not (by_us - by_torch) & set(OPTIONAL)


def test_the_loaders_load_no_optional_package() -> None:
    by_torch = modules_after("import torch")
    by_us = modules_after("import embedl_deploy.cli.models, embedl_deploy.cli.data")
    assert not (by_us - by_torch) & set(OPTIONAL)
