"""Models load by name, with weights from safe files; whatever does not fit is named."""

import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from embedl_deploy import transform
from embedl_deploy.cli import building, models
from embedl_deploy.cli.models import example_dtype, example_shape, load_model
from embedl_deploy.cli.weights import fill
from embedl_deploy.errors import CaptureError, LoadError, MissingExtraError

USER_CODE = """
import math
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))

def make(): return Net()
def make_with(width): return Net()
def make_text(): return "no model"
def make_from_torchvision():
    import torchvision
    return torchvision.models.resnet18()
ready = Net()
number = 3
class Box:
    make = staticmethod(make)
"""


@pytest.fixture
def user_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory holds modules, as a user's does."""
    (tmp_path / "user_net.py").write_text(USER_CODE)
    (tmp_path / "user_broken.py").write_text("raise ValueError('half written')")
    (tmp_path / "user_needs.py").write_text("import not_installed_here")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("user_")]:
        del sys.modules[name]


class Opaque:
    """An object whose class would have to be imported."""


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    ["user_net:Net", "user_net:make", "user_net:ready", "user_net:Box.make"],
)
def test_a_factory_of_the_current_directory_is_found(user_code: Path, spec: str) -> None:
    model = load_model(spec)
    assert (user_code / "user_net.py").exists()
    assert type(model).__name__ == "Net"
    assert not any(module.training for module in model.modules())


@pytest.mark.usefixtures("user_code")
def test_a_factory_may_import_torchvision_itself() -> None:
    assert type(load_model("user_net:make_from_torchvision")).__name__ == "ResNet"


def test_a_torchvision_model_has_random_weights() -> None:
    model = load_model("torchvision:resnet18")
    assert type(model).__name__ == "ResNet"
    assert not model.training


@pytest.mark.parametrize("spec", ["torchvision:squeezenet1_1", "user_net:make"])
def test_random_weights_are_the_same_each_time(user_code: Path, spec: str) -> None:
    _ = user_code
    torch.manual_seed(1)
    first = load_model(spec).state_dict()
    then = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), then)  # the caller's random numbers go on as before
    assert all(torch.equal(one, first[key]) for key, one in load_model(spec).state_dict().items())


def test_a_torchvision_backbone_is_not_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    model = load_model("torchvision:lraspp_mobilenet_v3_large")
    assert type(model).__name__ == "LRASPP"


@pytest.mark.parametrize("name", ["resnet10t", "resnet18.a1_in1k"])
def test_a_timm_model_has_random_weights(name: str) -> None:
    model = load_model(f"timm:{name}")
    assert type(model).__name__ == "ResNet"
    assert not model.training


@pytest.mark.usefixtures("user_code")
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet18", "names no model: write torchvision:NAME"),
        (":resnet18", "names no model"),
        ("timm:", "names no model"),
        ("torchvision:resnet5", r"no model 'resnet5'; did you mean resnet"),
        ("torchvision:zzzzzzzz", r"no model 'zzzzzzzz'$"),
        ("timm:resnet5", r"no model 'resnet5'; did you mean resnet"),
        ("timm:resnet18.no_such_tag", r"'resnet18.no_such_tag': .*no_such_tag"),
        (
            "transformers:BertForNothing",
            r"'BertForNothing' .*; did you mean Bert",
        ),
        ("transformers:BertConfig", "no class of models 'BertConfig'"),
        ("torchvision:resnet18.layer9", r"has no module 'layer9'; did you mean layer"),
        ("user_net:mak", r"'user_net' has no 'mak'; did you mean make"),
        ("user_net:Box.nothing", "has no 'nothing'"),
        ("user_net:number", "is of type int: name an nn.Module or a function"),
        ("user_net:make_text", "returned an object of type str: it must return an nn.Module"),
        ("user_net:make_with", "failed when called without arguments: TypeError: .*width"),
        ("user_gone:make", "there is no module 'user_gone', neither in"),
        ("user_net.inner:make", "importing 'user_net.inner' failed|no module 'user_net.inner'"),
        ("user_broken:make", "importing 'user_broken' failed: ValueError: half written"),
        ("user_needs:make", "importing 'user_needs' failed: .*not_installed_here"),
    ],
)
def test_a_name_that_leads_nowhere_is_explained(spec: str, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        load_model(spec)


@pytest.mark.parametrize(
    ("package", "spec"),
    [
        ("torchvision", "torchvision:resnet18"),
        ("timm", "timm:resnet18"),
        ("transformers", "transformers:BertModel"),
    ],
)
def test_a_missing_package_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, package: str, spec: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"'{package}'.*embedl_deploy\[zoo\]"):
        load_model(spec)


# --- weights -----------------------------------------------------------------------------------


def net_state() -> dict[str, Tensor]:
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    return {name: torch.rand_like(value.float()) for name, value in net.state_dict().items()}


def prefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{name}": value for name, value in state.items()}


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        prefixed,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": prefixed(state), "optimizer": {}},
    ],
    ids=["bare", "module-prefix", "state_dict", "model-with-prefix"],
)
def test_torch_weights_are_loaded(
    user_code: Path, suffix: str, wrap: Callable[[dict[str, Tensor]], dict[str, object]]
) -> None:
    state, path = net_state(), user_code / f"weights{suffix}"
    torch.save(wrap(state), path)
    model = load_model("user_net:make", weights=path)
    assert torch.equal(model.state_dict()["0.weight"], state["0.weight"])
    assert not model.training


def test_safetensors_weights_are_loaded(user_code: Path) -> None:
    state, path = net_state(), user_code / "weights.safetensors"
    save_file(state, path)
    model = load_model("user_net:make", weights=str(path))
    assert torch.equal(model.state_dict()["2.bias"], state["2.bias"])


def test_weights_that_do_not_fit_are_listed_with_counts(user_code: Path) -> None:
    state = net_state()
    state["0.weight"] = torch.ones(5, 4)
    for name in ("1.weight", "1.bias", "1.running_mean", "1.running_var"):
        state[f"extra.{name}"] = state.pop(name)
    torch.save(state, user_code / "weights.pt")
    with pytest.raises(LoadError) as caught:
        load_model("user_net:make", weights="weights.pt")
    said = str(caught.value)
    assert "'weights.pt' do not fit" in said
    assert "4 missing: 1.weight, 1.bias, 1.running_mean, … (1 more)" in said
    assert "4 unexpected: extra.1.weight" in said
    assert "1 of another shape: 0.weight (5, 4) where the model has (3, 4)" in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"0.weight": torch.ones(3, 4), "o": Opaque()}, r"Opaque.*could run code.*torch\.save"),
        (nn.Linear(2, 2), r"holds torch\.nn\.modules\.linear\.Linear, .*could run code"),
        ({}, "holds nothing: a state dict is needed"),
        ([torch.ones(1)], "holds an object of type list: a state dict is needed"),
        ({"lr": 0.1, "epoch": 2}, "no tensors: 'lr', 'epoch'"),
    ],
    ids=["object", "whole-model", "empty", "list", "numbers"],
)
def test_a_file_without_a_state_dict_is_refused(
    user_code: Path, content: object, message: str
) -> None:
    torch.save(content, user_code / "weights.pt")
    with pytest.raises(LoadError, match=message):
        load_model("user_net:make", weights="weights.pt")


def test_no_code_of_a_weights_file_is_run(user_code: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
            return Path.touch, (user_code / "ran",)

    (user_code / "weights.pt").write_bytes(pickle.dumps(Bomb(), protocol=2))
    torch.save({"bomb": Bomb()}, user_code / "zipped.pt")
    for name in ("weights.pt", "zipped.pt"):
        with pytest.raises(LoadError, match="could run code"):
            load_model("user_net:make", weights=name)
    assert not (user_code / "ran").exists()


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:'torch.load' received a zip file:UserWarning")
def test_a_torchscript_archive_is_refused(user_code: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), user_code / "weights.pt")
    with pytest.raises(LoadError, match=r"holds TorchScript, .*could run code"):
        load_model("user_net:make", weights="weights.pt")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.pt", None, "there is no weights file 'gone.pt'"),
        ("weights.bin", b"", "use .pt, .pth, .ckpt or .safetensors"),
        ("weights.pt", b"", "be read: EOFError"),
        ("weights.pt", b"hello, this is text", "be read: KeyError"),
        ("weights.pt", b"PK\x03\x04 cut off", "be read: RuntimeError"),
        ("weights.safetensors", b"zzzz" * 99, "be read: .*header"),
    ],
)
def test_a_damaged_weights_file_is_refused(
    user_code: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (user_code / name).write_bytes(content)
    with pytest.raises(LoadError, match=message):
        load_model("user_net:make", weights=name)


def test_missing_safetensors_names_its_extra(
    user_code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(net_state(), user_code / "weights.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(MissingExtraError, match=r"'safetensors'.*embedl_deploy\[cli\]"):
        load_model("user_net:make", weights="weights.safetensors")


# --- shapes ------------------------------------------------------------------------------------


def test_the_usual_shape_of_each_source() -> None:
    from torchvision import models

    assert example_shape("torchvision:resnet18", models.resnet18()) == (3, 224, 224)
    assert example_shape("torchvision:r3d_18", models.video.r3d_18()) is None
    assert example_shape("user_net:make", nn.Linear(4, 2)) is None
    assert example_shape("timm:some", nn.Linear(4, 2)) == (3, 224, 224)


def test_timm_says_the_shape_itself() -> None:
    import timm

    model = timm.create_model("resnet10t", pretrained=False)
    assert example_shape("timm:resnet10t", model) == (3, 176, 176)


WRAPPED: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "Lightning": lambda state: {"state_dict": {f"model.{k}": v for k, v in state.items()}},
    "torch.compile": lambda state: {f"_orig_mod.{k}": v for k, v in state.items()},
    "both": lambda state: {"model": {f"module._orig_mod.{k}": v for k, v in state.items()}},
    "model_state_dict": lambda state: {"model_state_dict": state, "epoch": 3},
    "an average": lambda state: {
        "ema": {"n_averaged": torch.tensor(4), **{f"module.{k}": v for k, v in state.items()}}
    },
}


@pytest.mark.parametrize("name", WRAPPED)
def test_common_wrappings_are_taken_off_and_said(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    state = {key: torch.full_like(one, 0.5) for key, one in net.state_dict().items()}
    torch.save(WRAPPED[name](state), tmp_path / "weights.ckpt")
    fill(net, tmp_path / "weights.ckpt")
    assert all(bool((one == 0.5).all()) for one in net.parameters())
    assert "taken off" in caplog.text


def test_a_prefix_that_the_model_has_is_its_own(tmp_path: Path) -> None:
    net = nn.Module()
    net.model = nn.Linear(2, 3)
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    fill(net, tmp_path / "weights.pt")


# --- transformers, and parts of torchvision's models -------------------------------------------


def small(kind: Any) -> Any:
    """A config that is small enough for a test."""
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    return kind.config_class(**sizes, num_attention_heads=2, vocab_size=50, image_size=32)


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("BertForSequenceClassification", (128,), torch.int64),
        ("ViTForImageClassification", (3, 32, 32), torch.float32),
    ],
)
def test_a_model_of_transformers_has_a_task_and_a_usual_input(
    monkeypatch: pytest.MonkeyPatch, name: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(building, "config_for", small)
    spec = f"transformers:{name}"
    model, again = load_model(spec), load_model(spec)
    assert type(model).__name__ == name
    assert not model.training
    assert all(
        torch.equal(one, other)
        for one, other in zip(model.parameters(), again.parameters(), strict=True)
    )
    assert (example_shape(spec, model), example_dtype(model)) == (shape, dtype)
    result = transform(model, (torch.zeros(1, *shape, dtype=dtype),))
    assert any("LinearPattern" in match.pattern.name for match in result.matches)


def test_the_config_is_the_default_of_the_class() -> None:
    import transformers

    config = building.config_for(transformers.BertForSequenceClassification)
    assert (config.hidden_size, config.use_cache) == (768, False)


def test_a_part_of_a_model_of_torchvision_has_the_weights_of_the_whole(tmp_path: Path) -> None:
    whole = load_model("torchvision:resnet18")
    state = {name: torch.ones_like(one) for name, one in whole.state_dict().items()}
    torch.save(state, tmp_path / "ones.pt")
    part = load_model("torchvision:resnet18.layer1.0", weights=tmp_path / "ones.pt")
    assert type(part).__name__ == "BasicBlock"
    assert all(bool((one == 1).all()) for one in part.parameters())


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone(x) if x.sum() > 0 else x


@pytest.mark.parametrize(("spec", "advised"), [("torchvision:ssd", True), ("nets:ssd", False)])
def test_what_can_not_be_captured_of_a_detector_has_advice(spec: str, *, advised: bool) -> None:
    model = Detector()
    with pytest.raises(CaptureError) as caught, models.advising(spec, model):
        transform(model)
    assert ("name the part before that, torchvision:ssd.backbone" in str(caught.value)) is advised
