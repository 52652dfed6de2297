"""Each rule finds what breaks it, and nothing in a model close to that."""

from pathlib import Path

import pytest

from embedl_deploy.tensorrt.rules import RULES, Severity, check_onnx
from tests.tensorrt.rules.format_cases import FORMAT, TYPES
from tests.tensorrt.rules.placement_cases import PLACEMENT

CASES = FORMAT | TYPES | PLACEMENT
BY_ID = {rule.id: rule for rule in RULES}


def test_every_rule_has_a_case() -> None:
    assert len(RULES) == len(BY_ID)
    assert list(CASES) == list(BY_ID)


@pytest.mark.parametrize("rule", CASES)
def test_a_broken_rule_is_found_and_no_other_error(rule: str, tmp_path: Path) -> None:
    report = check_onnx(CASES[rule][0].save(tmp_path), "11.x")
    found = [one for one in report.findings if one.rule == rule]
    assert BY_ID[rule].severity in {one.severity for one in found}, report
    assert all(one.nodes for one in found) or rule == "F01"
    assert {one.rule for one in report.errors} <= {rule}, report


@pytest.mark.parametrize("rule", CASES)
def test_a_model_that_keeps_a_rule_passes_it(rule: str, tmp_path: Path) -> None:
    report = check_onnx(CASES[rule][1].save(tmp_path), "11.x")
    informed = [one for one in report.findings if one.rule == rule]
    assert all(one.severity is Severity.INFO for one in informed), report
    if BY_ID[rule].severity is Severity.INFO:
        assert not informed, report
    assert not report.errors, report
    assert rule not in {one.rule for one in report.unjudged}
