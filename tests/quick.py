"""Which files `make quick` runs: all folders of tests, about a minute on two cores.

What is in no list here is marked `slow`. In these files `@pytest.mark.slow` leaves single tests
out.
"""

from pathlib import Path

ROOT = Path(__file__).parent
QUICK = (
    "test_api.py",
    "test_floors.py",
    "test_public_api.py",
    "test_quick.py",
    "test_target.py",
    "benchmarks/test_zoo.py",
    "cases/test_cases.py",
    "cli/test_check.py",
    "cli/test_data.py",
    "docs/test_docs.py",
    "examples/test_digits.py",
    "export/test_lower.py",
    "export/test_parity.py",
    "graph/test_capture.py",
    "graph/test_constants.py",
    "modules/test_modules.py",
    "patterns/test_language.py",
    "patterns/test_values.py",
    "quantize/test_observers.py",
    "quantize/test_rounding.py",
    "report/test_summary.py",
    "rewrite/test_plan.py",
    "tensorrt/test_groups.py",
    "tensorrt/engine/test_layers.py",
    "tensorrt/prediction/test_rules.py",
    "tensorrt/rules/test_rules.py",
    "tuning/test_tune.py",
)


def is_quick(path: Path) -> bool:
    """Whether a file of tests belongs to the fast subset."""
    return path.relative_to(ROOT).as_posix() in QUICK
