"""Clean files are broken in each way at many places; each is found under its id, and alone."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto

from embedl_deploy.tensorrt import Report, check_onnx
from embedl_deploy.tensorrt.rules import RULES
from tests.tensorrt.rules.format_mutations import FORMAT_MUTATIONS, HALF_MUTATIONS, Mutation
from tests.tensorrt.rules.nets import HALVES, NETS, exported
from tests.tensorrt.rules.placement_mutations import PLACEMENT_MUTATIONS

MUTATIONS = FORMAT_MUTATIONS | HALF_MUTATIONS | PLACEMENT_MUTATIONS
VERSIONS = {"F05": "10.12"}
Found = set[tuple[str, str, tuple[str, ...]]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelProto]:
    folder = tmp_path_factory.mktemp("clean")
    return {name: exported(name, folder) for name in NETS}


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelProto]:
    folder = tmp_path_factory.mktemp("half")
    return {name: exported(name, folder, "float16") for name in HALVES}


def check(proto: ModelProto, folder: Path, rule: str) -> Report:
    onnx.save(proto, folder / "model.onnx")
    return check_onnx(folder / "model.onnx", VERSIONS.get(rule, "11.x"))


def found(report: Report) -> Found:
    return {(one.rule, one.message, one.nodes) for one in report.findings}


def mutants(kinds: Sequence[Mutation], file: ModelProto) -> Iterator[ModelProto]:
    for kind in kinds:
        yield from (draft.proto for draft in kind(file))


def test_every_rule_is_broken() -> None:
    assert set(MUTATIONS) == {rule.id for rule in RULES}


WARNED: dict[str, set[str]] = {
    "block": {"P16"},  # by default the softmax is not quantized
    "depthwise": {"P10"},
}


def hold_clean(name: str, file: ModelProto, folder: Path) -> Report:
    report = check(file, folder, "")
    assert report.ok, report
    assert {one.rule for one in report.warnings} == WARNED.get(name, set()), report
    assert not report.unjudged, report
    return report


@pytest.mark.parametrize("name", NETS)
def test_clean_files_have_no_errors_and_no_warning_without_a_reason(
    name: str, files: dict[str, ModelProto], tmp_path: Path
) -> None:
    hold_clean(name, files[name], tmp_path)


@pytest.mark.parametrize("name", HALVES)
def test_clean_files_in_half_precision_leave_nothing_in_float32(
    name: str, halves: dict[str, ModelProto], tmp_path: Path
) -> None:
    report = hold_clean(name, halves[name], tmp_path)
    assert "T04" not in {one.rule for one in report.findings}


@pytest.mark.parametrize("rule", MUTATIONS)
def test_each_mutant_is_found_and_nothing_else_is_an_error(
    rule: str,
    files: dict[str, ModelProto],
    halves: dict[str, ModelProto],
    tmp_path: Path,
) -> None:
    for name, file in (halves if rule in HALF_MUTATIONS else files).items():
        known = found(check(file, tmp_path, rule)) if rule not in WARNED.get(name, ()) else set()
        for count, mutant in enumerate(mutants(MUTATIONS[rule], file)):
            report = check(mutant, tmp_path, rule)
            new = {one[0] for one in found(report) - known}
            assert rule in new, f"{name}, mutant {count}: {report}"
            assert {one.rule for one in report.errors} <= {rule}, f"{name}, {count}: {report}"


def test_there_are_enough_mutants(
    files: dict[str, ModelProto], halves: dict[str, ModelProto]
) -> None:
    counts = {
        rule: sum(
            1
            for file in (halves if rule in HALF_MUTATIONS else files).values()
            for _ in mutants(kinds, file)
        )
        for rule, kinds in MUTATIONS.items()
    }
    assert min(counts.values()) >= 2, counts
    assert sum(counts.values()) >= 1000, counts
