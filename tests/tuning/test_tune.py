"""The search finds what trying everything finds, goes on where it stopped, and says why."""

import gc
import json
import weakref
from collections.abc import Collection
from dataclasses import replace
from importlib.util import find_spec
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import fx, nn

from embedl_deploy import Result, transform
from embedl_deploy.errors import ExportError, LoadError, QuantizationError
from embedl_deploy.modules import FusedModule
from embedl_deploy.quantize import (
    QuantConfig,
    QuantStub,
    TensorQuantConfig,
    calibrate,
    insert_qdq,
)
from embedl_deploy.quantize.stubs import quantizers_of
from embedl_deploy.tensorrt import TENSORRT_RTX
from embedl_deploy.tuning import (
    Accuracy,
    Bound,
    Candidate,
    Choice,
    Cost,
    Tuning,
    read_plan,
    search,
    tune,
)
from embedl_deploy.tuning.accuracy import Judge

SAVES = {"stem": 5.0, "blocks.0": 4.0, "blocks.1": 4.0, "wide": 6.0, "mean": 1.0, "head": -4.0}
"""What a made-up device saves where a layer is quantized; the head does not pay."""


class Net(nn.Module):
    """Two equal blocks, and a layer that does not quantize well."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.blocks = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1))
        self.wide = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)
        small: Any = self.blocks[1]
        with torch.no_grad():
            small.weight[0] /= 300
            small.bias[0] /= 300
            self.wide.weight[:, 0] *= 300

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.wide(self.blocks(self.stem(x).relu())).mean((2, 3)))


def export_names(model: fx.GraphModule, _: object, path: Path, *, precision: str) -> None:
    """In place of an export: the paths of what is quantized; there is no FP8."""
    if any(one.config.format != "int" for one in quantizers_of(model)):
        raise ExportError("no FP8")
    assert precision in {"float16", "bfloat16"}
    calls = {str(node.target): node for node in model.graph.nodes if node.op == "call_module"}
    quantized = [
        path
        for path, node in calls.items()
        if isinstance(module := model.get_submodule(path), FusedModule)
        and (module.weight_quantizers or (not module.parts and "stub" in str(node.args[0])))
    ]
    path.write_text("\n".join(quantized))


def leave_names(_: object, source: Path, output: Path, left: Collection[str]) -> None:
    """In place of an edit, likewise."""
    names = source.read_text().splitlines()
    output.write_text("\n".join(name for name in names if name not in left))


def cost(path: Path) -> float:
    """Of the made-up device."""
    return 100 - sum(SAVES[name] for name in path.read_text().splitlines())


def data() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(4, 3, 8, 8, generator=generator) for _ in range(4)]


@pytest.fixture(scope="module")
def result() -> Result:
    torch.manual_seed(0)
    return transform(Net().eval(), (data()[0],))


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "export_onnx", export_names)
    monkeypatch.setattr(search, "leave", leave_names)


@pytest.fixture
def free(result: Result, monkeypatch: pytest.MonkeyPatch) -> Tuning:
    """Without a bound."""
    monkeypatch.setattr(search, "export_onnx", export_names)
    monkeypatch.setattr(search, "leave", leave_names)
    return tune(result, data(), cost=cost)


class Attends(nn.Module):
    """An attention that pays most for its noise, and layers around it."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.out = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> Any:
        heads = [one(x).unflatten(-1, (2, 4)).transpose(1, 2) for one in self.inputs()]
        attended = nn.functional.scaled_dot_product_attention(*heads)
        return self.out(attended.transpose(1, 2).flatten(-2))

    def inputs(self) -> tuple[nn.Module, ...]:
        return self.query, self.key, self.value


def attending(path: Path) -> float:
    names = path.read_text().splitlines()
    return 100 - sum(20 if "attention" in name else 1 for name in names)


@pytest.mark.usefixtures("made_up")
def test_a_placement_that_quantizes_nothing_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its attention, nothing is left of a placement that leaves all others."""
    rows = [torch.randn(2, 5, 8) for _ in range(4)]
    made = transform(Attends().eval(), (rows[0],))
    empty: list[Choice] = []
    quantized = search.Search._quantized

    def noted(self: search.Search, choice: Choice) -> fx.GraphModule:
        try:
            return quantized(self, choice)
        except QuantizationError:
            empty.append(choice)
            raise

    monkeypatch.setattr(search.Search, "_quantized", noted)
    tuning = tune(made, rows, cost=attending, trials=20)
    assert [one.attention for one in empty if one.numbers == "INT8"] == ["none"]
    assert tuning.complete
    assert tuning.evidence["INT8"].base.choice.attention == "full"
    assert any(one.choice.left and one.choice.attention == "full" for one in tuning.candidates)


@pytest.mark.usefixtures("made_up")
def test_what_edits_leave_in_circles_is_freed_at_once(
    result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the weights of each file that `leave` reads."""
    circles: list[weakref.ref[Any]] = []

    def leaving(*args: Any) -> None:
        circle = type("Circle", (), {})()
        circle.own = circle
        circles.append(weakref.ref(circle))
        leave_names(*args)

    def costing(path: Path) -> float:
        assert not any(one() for one in circles)
        return cost(path)

    monkeypatch.setattr(search, "leave", leaving)
    gc.disable()
    try:
        tune(result, data(), cost=costing)
    finally:
        gc.enable()
    assert circles


def everything(result: Result, groups: Tuning) -> list[Candidate]:
    """All placements, measured without the search."""
    names = [one.name for one in groups.groups]
    judge = Judge(result.model, [[data()[3]]], None)
    found = []
    for left in chain.from_iterable(combinations(names, size) for size in range(len(names))):
        choice = Choice(left=left)
        model = insert_qdq(result, choice.config(groups.base, groups.groups))
        calibrate(model, data()[:3])
        price = 100 - sum(SAVES[one] for one in names_of(groups) if one not in paths(groups, left))
        found.append(Candidate(choice, Cost(price), judge.accuracy(model)))
    return found


def names_of(groups: Tuning) -> list[str]:
    return [path for one in groups.groups for path in one.paths]


def paths(groups: Tuning, left: tuple[str, ...]) -> set[str]:
    return {path for one in groups.groups if one.name in left for path in one.paths}


def test_equal_layers_are_a_group(free: Tuning) -> None:
    found = {one.name: one.paths for one in free.groups}
    assert found["blocks.*"] == ("blocks.0", "blocks.1")
    assert {"stem", "blocks.*", "wide", "head"} <= found.keys()


def test_gains_are_those_of_the_device(free: Tuning) -> None:
    assert free.evidence["INT8"].gains["head"] == pytest.approx(-4)
    assert free.evidence["INT8"].gains["blocks.*"] == pytest.approx(8)
    assert max(free.evidence["INT8"].alone.items(), key=lambda one: one[1])[0] == "wide"


def test_what_does_not_pay_is_left_without_a_bound(free: Tuning) -> None:
    assert free.best is not None
    assert free.best.choice.left == ("head",)
    head = next(one for one in free.groups if one.name == "head")
    assert free.reason(head) == "half precision: quantizing costs 4.0 more"


@pytest.mark.usefixtures("made_up")
def test_what_may_be_the_cheapest_is_measured_first(result: Result) -> None:
    found = tune(result, data(), cost=cost, trials=1)
    assert found.best is not None
    assert found.best.choice.left == ("head",)


@pytest.mark.slow
@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize("least", [10.0, 30.0])
def test_the_best_is_that_of_all_placements(result: Result, free: Tuning, least: float) -> None:
    found = tune(result, data(), cost=cost, min_sqnr=least)
    fit = [one for one in everything(result, free) if one.accuracy.sqnr_db >= least]
    assert found.best is not None
    assert found.best.cost.value == min(one.cost.value for one in fit)
    assert found.best.accuracy.sqnr_db >= least
    assert ("wide" in found.best.choice.left) is (least > 20)
    assert found.refused == {"FP8": "no FP8"}


@pytest.mark.slow
@pytest.mark.usefixtures("made_up")
def test_a_bound_on_the_cost_gives_the_most_accurate(result: Result, free: Tuning) -> None:
    found = tune(result, data(), cost=cost, max_cost=90.0)
    fit = [one for one in everything(result, free) if one.cost.value <= 90]
    assert found.best is not None
    assert found.best.cost.value <= 90
    assert found.best.accuracy.sqnr_db >= max(one.accuracy.sqnr_db for one in fit) - 1e-6


def test_no_candidate_of_the_front_is_beaten(free: Tuning) -> None:
    for one in free.front:
        assert not any(
            other.cost.value < one.cost.value and other.accuracy.sqnr_db >= one.accuracy.sqnr_db
            for other in free.candidates
        )
    assert len(free.front) > 1


@pytest.mark.parametrize("same", range(90, 101))
def test_a_drop_is_in_percent_of_the_classes(same: int) -> None:
    one = Candidate(Choice(), Cost(1.0), Accuracy(30.0, same / 100))
    kept = [Bound(max_drop=drop).holds(one, None) for drop in (100 - same, 99.5 - same)]
    assert kept == [True, False]


@pytest.mark.usefixtures("made_up")
def test_float16_is_kept_where_nothing_pays(result: Result) -> None:
    found = tune(result, data(), cost=lambda path: 100.0 + len(path.read_text()))
    assert (found.best, found.config, found.front) == (None, None, ())
    assert "keep float16" in str(found)


@pytest.mark.usefixtures("made_up")
def test_groups_are_added_to_float16_where_everything_quantized_costs_more(result: Result) -> None:
    def device(path: Path) -> float:
        quantized = path.read_text().splitlines()
        return 98 if quantized == ["wide"] else 100 + len(quantized)

    found = tune(result, data(), cost=device)
    assert found.best is not None
    assert {*found.best.choice.left} == {one.name for one in found.groups} - {"wide"}
    assert found.evidence["INT8"].gains["wide"] == pytest.approx(2)
    assert all(gain < 0 for name, gain in found.evidence["INT8"].gains.items() if name != "wide")


class Adds(nn.Module):
    """A residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        added: torch.Tensor = (self.block(x) + x).relu()
        return added


def test_residuals_are_left_where_that_costs_less(monkeypatch: pytest.MonkeyPatch) -> None:
    def export_points(model: fx.GraphModule, _: object, path: Path, **__: object) -> None:
        stubs = (one for one in model.modules() if isinstance(one, QuantStub))
        path.write_text("\n".join(point for one in stubs for point in one.points))

    monkeypatch.setattr(search, "export_onnx", export_points)
    monkeypatch.setattr(search, "leave", lambda *given: given[2].write_text(""))

    def device(path: Path) -> float:
        points = path.read_text().splitlines()
        return 100 - 9 * len(points) + 20 * ("block RESIDUAL_INPUT" in points)

    found = tune(transform(Adds().eval(), (data()[0],)), data(), cost=device, trials=0)
    assert found.best is not None
    assert (found.best.cost.value, found.best.choice.residual) == (82, False)
    assert found.config is not None
    assert QuantConfig.from_dict(found.config.to_dict()).residual is False
    assert "residuals too" in str(found)


@pytest.mark.usefixtures("made_up")
def test_a_user_s_score_is_the_bound(result: Result) -> None:
    def score(model: fx.GraphModule) -> float:
        wide = model.get_submodule("wide")
        assert isinstance(wide, FusedModule)
        return 70.0 if wide.weight_quantizers else 80.0

    found = tune(result, data(), cost=cost, max_drop=1.0, evaluate=score)
    assert found.best is not None
    assert "wide" in found.best.choice.left
    assert found.best.accuracy.score == 80


@pytest.mark.slow
@pytest.mark.usefixtures("made_up")
def test_a_search_that_was_stopped_goes_on(result: Result, tmp_path: Path) -> None:
    store = tmp_path / "measured.jsonl"
    stops = [4]
    measured: list[Path] = []

    def counted(path: Path) -> float:
        if len(measured) in stops:
            raise KeyboardInterrupt
        measured.append(path)
        return cost(path)

    with pytest.raises(KeyboardInterrupt):
        tune(result, data(), cost=counted, store=store)
    with store.open("a") as file:
        file.write('{"about": "torn')
    stops.clear()
    found = tune(result, data(), cost=counted, store=store)
    assert len(measured) == len(found.candidates) + len(found.groups) + 1
    tune(result, data(), cost=counted, store=store)
    assert len(measured) == len(found.candidates) + len(found.groups) + 1


@pytest.mark.slow
@pytest.mark.usefixtures("made_up")
def test_what_was_measured_before_a_stop_is_not_measured_again(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the accuracy of a candidate whose cost is not known yet, nor the noise of a group.

    Nor is a file written again that was to be costed.
    """
    evaluated: list[str] = []
    exported: list[str] = []
    said: list[str] = []
    stops = {2, 5}

    def export(model: fx.GraphModule, _: object, path: Path, *, precision: str) -> None:
        export_names(model, _, path, precision=precision)
        exported.append(path.read_text())

    monkeypatch.setattr(search, "export_onnx", export)

    def score(model: fx.GraphModule) -> float:
        evaluated.append(model.code)
        return 90.0

    def stopping(path: Path) -> float:
        if stops and len(said) in stops:
            stops.remove(len(said))
            raise KeyboardInterrupt
        return cost(path)

    def searched(name: str) -> Tuning:
        return tune(
            result,
            data(),
            cost=stopping,
            evaluate=score,
            store=tmp_path / name,
            report=lambda what, _: said.append(what),
        )

    while stops:
        with pytest.raises(KeyboardInterrupt):
            searched("stopped.jsonl")
        (draft,) = tmp_path.glob("*.onnx")
        (tmp_path / f".{draft.name}-killed").mkdir()  # as an export leaves it that is killed
    found, count = searched("stopped.jsonl"), len(evaluated)
    noises, files = [one for one in said if "the noise of" in one], [*exported]
    searched("whole.jsonl")
    assert len(evaluated) == 2 * count
    assert exported == [*files, *files]
    assert {one.suffix for one in tmp_path.iterdir()} == {".jsonl"}
    assert len(noises) == len(set(noises)) == len(found.groups)


def test_a_plan_on_disk_quantizes_as_the_best(result: Result, free: Tuning, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(free.to_dict()))
    plan = read_plan(path)
    plan.check(result)
    config = plan.config
    assert config is not None
    assert free.config is not None
    assert insert_qdq(result, config).code == insert_qdq(result, free.config).code


def test_a_plan_of_another_target_or_model_is_said(free: Tuning, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(free.to_dict()))
    other = transform(Net().eval(), (data()[0],), target=TENSORRT_RTX)
    with pytest.raises(
        LoadError, match=r"is for TensorRT, and the model was transformed for .*RTX"
    ):
        read_plan(path).check(other)
    small = transform(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), (data()[0],))
    with pytest.raises(LoadError, match="has 'stem', which is no fused module here"):
        read_plan(path).check(small)


@pytest.mark.usefixtures("made_up")
def test_what_saves_next_to_nothing_is_not_worth_its_noise(result: Result) -> None:
    found = tune(result, data(), cost=lambda path: 100 - 0.05 * len(path.read_text().split()))
    assert min(one.cost.value for one in found.candidates) < found.half.value
    assert found.best is None


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 7, "config": null}', '{"schema": 4}'])
def test_what_is_no_plan_is_said(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(LoadError, match=r"plan"):
        read_plan(path)


@pytest.mark.usefixtures("made_up")
def test_a_file_is_of_the_precision_that_is_asked_for(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def export(model: fx.GraphModule, _: object, path: Path, *, precision: str) -> None:
        seen.append(precision)
        export_names(model, _, path, precision=precision)

    monkeypatch.setattr(search, "export_onnx", export)
    store = tmp_path / "measured.jsonl"
    tune(result, data(), cost=cost, trials=0, store=store)
    assert {*seen} == {"float16"}
    seen.clear()
    found = tune(result, data(), cost=cost, trials=0, store=store, precision="bfloat16")
    assert {*seen} == {"bfloat16"}  # nothing of the other is taken for it
    assert found.verdict.startswith("84.0, 84% of bfloat16's")
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(found.to_dict()))
    assert read_plan(path).precision == "bfloat16"
    wrong: Any = "float32"
    with pytest.raises(QuantizationError, match="not 'float32'"):
        tune(result, data(), cost=cost, precision=wrong)


def test_two_bounds_are_refused(result: Result) -> None:
    with pytest.raises(QuantizationError, match="one of min_sqnr"):
        tune(result, data(), min_sqnr=30, max_drop=1)


@pytest.mark.usefixtures("made_up")
def test_a_drop_needs_classes_or_a_score() -> None:
    images = transform(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)).eval(), (data()[0],))
    with pytest.raises(QuantizationError, match="no class scores"):
        tune(images, data(), cost=lambda path: 9.0 - len(path.read_text()), max_drop=1)


@pytest.mark.slow
def test_the_file_that_is_costed_is_that_of_the_placement() -> None:
    """Without anything made up, on a part of the search."""
    seen: list[int] = []

    def count(path: Path) -> float:
        model = onnx.load(path)
        seen.append(sum(one.data_type == onnx.TensorProto.INT8 for one in model.graph.initializer))
        return 10.0 - seen[-1]

    small = transform(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), (data()[0],))
    found = tune(small, data()[:2], cost=count, trials=0)
    assert seen[0] == 0
    assert max(seen) > 0
    assert found.best is not None


def test_weights_of_4_bits_are_tried_where_they_have_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def export_bits(model: fx.GraphModule, _: object, path: Path, **__: object) -> None:
        path.write_text(" ".join(str(one.config.bits) for one in quantizers_of(model)))

    def device(path: Path) -> float:
        return 100 - sum({"4": 9, "8": 2}[bits] for bits in path.read_text().split())

    monkeypatch.setattr(search, "export_onnx", export_bits)
    monkeypatch.setattr(search, "leave", lambda *given: given[2].write_text(""))
    rows = [torch.randn(8, 128) for _ in range(4)]
    net = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 4)).eval()
    found = tune(transform(net, (rows[0],)), rows, cost=device, trials=0)
    assert found.best is not None
    assert (found.best.choice.numbers, found.best.cost.value) == ("INT4 weights", 82)
    config = found.config
    assert config is not None
    assert (config.activations, config.weights.bits, config.weights.block_size) == (None, 4, 128)
    assert "INT4 weights: saves" in str(found)
    assert found.shown is found.evidence["INT4 weights"]
    bare = replace(found.shown, gains=dict.fromkeys(found.shown.gains, 0.0), alone={})
    nothing = replace(found, evidence={"INT4 weights": bare})
    assert nothing.reason(found.groups[0]) == "half precision: weights alone are quantized"
    small = nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 4)).eval()
    few = [torch.randn(8, 12) for _ in range(4)]
    left = tune(transform(small, (few[0],)), few, cost=device, trials=0)
    assert "INT4 weights" not in {one.choice.numbers for one in left.candidates}
    assert not left.refused


@pytest.mark.parametrize(
    ("bound", "known", "pending", "chosen"),
    [
        # of a new figure, and beaten by another one that is pending
        (Bound(), [(70, 20, 0), (99, 30.5, 0)], [(80, 30), (85, 25)], (80, 30)),
        # beaten by one that was measured
        (Bound(), [(70, 20, 0), (75, 40, 0)], [(80, 30)], None),
        # the one that would beat it does not keep to the bound
        (Bound(max_drop=1), [(80, 40, 80)], [(88, 30)], (88, 30)),
        (Bound(max_drop=1), [(80, 40, 90)], [(88, 30)], None),
    ],
)
def test_what_another_placement_beats_is_not_measured(
    bound: Bound,
    known: list[tuple[float, float, float]],
    pending: list[tuple[float, float]],
    chosen: tuple[float, float] | None,
) -> None:
    looking = search.Search.__new__(search.Search)
    looking.bound, looking.score = bound, 90.0
    looking.candidates = {
        str(one): Candidate(Choice(), Cost(one[0]), Accuracy(one[1], score=one[2])) for one in known
    }
    found = looking._next([(Choice(left=(str(one),)), *one) for one in pending])
    assert (found and found[1:]) == chosen


def test_what_the_only_group_saves_is_what_the_file_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "export_onnx", export_names)
    rows = [torch.randn(8, 12) for _ in range(4)]
    net = transform(nn.Sequential(nn.Linear(12, 4), nn.ReLU()).eval(), (rows[0],))
    found = tune(net, rows, cost=lambda path: 9.0 - 2 * bool(path.read_text()), trials=0)
    assert found.evidence["INT8"].gains == {found.groups[0].name: 2}
    assert found.reason(found.groups[0]).startswith("INT8: saves 2.0")


@pytest.mark.slow
def test_each_kind_of_numbers_has_its_own_evidence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Convolutions save nothing in 4 bits, and much in INT8; linear layers the reverse."""
    saves = {("stem", 8): 12.0, ("noisy", 8): 2.0, ("fc", 8): 6.0, ("fc", 4): 40.0}

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.noisy = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 1)
            self.fc, self.out = nn.Linear(128, 128), nn.Linear(128, 8)
            with torch.no_grad():
                self.stem.weight[0] /= 300
                self.noisy.weight[:, 0] *= 300

        def forward(self, x: torch.Tensor) -> Any:
            y = nn.functional.adaptive_avg_pool2d(self.noisy(self.stem(x).relu()), 2)
            return self.out(self.fc(y.flatten(1)).relu())

    def export(model: fx.GraphModule, _: object, path: Path, **__: object) -> None:
        if any(one.config.format != "int" for one in quantizers_of(model)):
            raise ExportError("no FP8")
        fused = {path: one for path, one in model.named_modules() if isinstance(one, FusedModule)}
        bits = {
            path: one.quantizer(one.weights()[0]).config.bits  # type: ignore[union-attr]
            for path, one in fused.items()
            if one.weight_quantizers
        }
        path.write_text(json.dumps(bits))

    def left_out(_: object, source: Path, output: Path, left: Collection[str]) -> None:
        bits = json.loads(source.read_text())
        output.write_text(json.dumps({one: bits[one] for one in bits if one not in left}))

    def device(path: Path) -> float:
        return 100 - sum(saves.get(one, 0.0) for one in json.loads(path.read_text()).items())

    monkeypatch.setattr(search, "export_onnx", export)
    monkeypatch.setattr(search, "leave", left_out)
    torch.manual_seed(0)
    source = transform(Mixed().eval(), (data()[0],))
    found = tune(
        source, data(), cost=device, min_sqnr=35.0, trials=20, store=tmp_path / "[1].jsonl"
    )
    kinds = found.evidence
    assert (kinds["INT8"].gains["stem"], kinds["INT4 weights"].gains["stem"]) == (12, 0)
    assert (kinds["INT8"].gains["fc"], kinds["INT4 weights"].gains["fc"]) == (6, 40)
    assert found.best is not None
    assert (found.best.choice.numbers, found.best.cost.value) == ("INT8", 82)
    assert [one.name for one in tmp_path.iterdir()] == ["[1].jsonl"]  # no draft


def test_numbers_that_cannot_be_tried_are_said_and_those_of_the_config_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search, "export_onnx", lambda *given, **_: given[2].write_text("x"))
    monkeypatch.setattr(search, "leave", lambda *given: given[2].write_text("x"))
    rows = [torch.randn(8, 128) for _ in range(4)]
    net = transform(nn.Sequential(nn.Linear(128, 8), nn.ReLU()).eval(), (rows[0],))

    def tried(config: QuantConfig) -> Tuning:
        return tune(net, rows, config, cost=lambda _: 9.0, trials=0)

    unsigned = tried(QuantConfig(activations=TensorQuantConfig(signed=False)))
    assert "8 bits and a sign" in unsigned.refused["FP8"]
    halved = tried(QuantConfig(probabilities=TensorQuantConfig()))
    assert "INT4 weights" in {one.choice.numbers for one in halved.candidates}
    blocks = tried(QuantConfig(activations=None, weights=TensorQuantConfig(4, block_size=64)))
    (one,) = blocks.candidates
    assert one.choice.numbers == "INT4 weights"
    assert one.choice.config(blocks.base, blocks.groups).weights.block_size == 64
    assert blocks.reason(blocks.groups[0]).startswith("half precision: quantizing costs 0.0 more")


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("tensorrt_rtx_bindings") is None,
    reason="TensorRT for RTX is not installed: pip install 'embedl_deploy[rtx]'",
)
def test_the_compiler_gives_the_cost() -> None:
    small = transform(nn.Sequential(nn.Conv2d(16, 16, 3), nn.ReLU()).eval(), (images(16),))
    found = tune(small, [images(16)], gpu="sm89", trials=0)
    kernels = [one.cost.kernels for one in found.candidates]
    assert found.half.kernels
    assert all(kernels)
    said = " ".join(str(found).split())
    assert "estimated for sm89 at batch 1 from what TensorRT for RTX" in said
    assert "nothing was run; the files are for TensorRT, whose kernels may be others" in said
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["half"]["kernels"]


def images(channels: int) -> torch.Tensor:
    return torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(0))
