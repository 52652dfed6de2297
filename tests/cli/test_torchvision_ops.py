"""Torchvision imports, whatever PyTorch build it stands beside."""

import subprocess
import sys
from types import ModuleType

import pytest
import torch

from embedl_deploy.cli import torchvision_ops
from embedl_deploy.cli.torchvision_ops import import_torchvision
from embedl_deploy.errors import MissingExtraError


def run_fresh(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.strip()


def test_a_model_is_built_in_a_fresh_interpreter() -> None:
    printed = run_fresh(
        "from embedl_deploy.cli.torchvision_ops import import_torchvision as load\n"
        "tv = load(); assert load() is tv\n"
        "import timm, torchvision\n"
        "print(type(torchvision.models.resnet18()).__name__, timm.is_model('resnet18'))"
    )
    assert printed == "ResNet True"


def test_the_schemas_are_there_afterwards() -> None:
    import_torchvision()
    schema = torch.ops.torchvision.nms.default._schema
    assert [argument.name for argument in schema.arguments] == ["dets", "scores", "iou_threshold"]


def test_a_torchvision_that_loads_gets_no_schemas(monkeypatch: pytest.MonkeyPatch) -> None:
    working = ModuleType("torchvision")
    monkeypatch.setitem(sys.modules, "torchvision", working)
    monkeypatch.setattr(torchvision_ops, "_declare_operators", pytest.fail)
    assert import_torchvision() is working


def test_schemas_are_declared_at_most_once() -> None:
    import_torchvision()
    import_torchvision()
    assert len(torchvision_ops._libraries) <= 1


def test_a_missing_torchvision_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(MissingExtraError, match=r"'torchvision'.*embedl_deploy\[zoo\]"):
        import_torchvision()


def test_another_failure_of_torchvision_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise RuntimeError(f"{name} was made for another PyTorch")

    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(RuntimeError, match="made for another PyTorch"):
        import_torchvision()
