"""Write the generated parts of the pages in this folder anew: `make docs`.

What stands between `<!-- generated: NAME -->` and `<!-- end -->` is generated.
"""

import argparse
import importlib
import inspect
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from benchmarks.compiled_rules import verdicts
from docs._surface import first_line, tree_text
from embedl_deploy import transform
from embedl_deploy.cli.commands.runs import schema
from embedl_deploy.cli.torchvision_ops import import_torchvision
from embedl_deploy.patterns import ACTIVATIONS, Pattern, Stage
from embedl_deploy.tensorrt import (
    TENSORRT_CONVERSION_PATTERNS,
    TENSORRT_FUSION_PATTERNS,
    TENSORRT_MIXED_PRECISION_PATTERNS,
    TENSORRT_PATTERNS,
    TENSORRT_SMART_PATTERNS,
)
from embedl_deploy.tensorrt.prediction.catalog import FUSIONS
from embedl_deploy.tensorrt.prediction.fusion import Fusion
from embedl_deploy.tensorrt.rules import Rule
from embedl_deploy.tensorrt.rules.catalog import FORMAT_RULES, PLACEMENT_RULES, TYPE_RULES

FOLDER = Path(__file__).parent
COUNTED = ("resnet50", "convnext_tiny", "convnext_base", "convnext_large", "vit_b_16")
_BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write every page; with `--check`, write nothing and give 1 where one is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say what is out of date")
    check = parser.parse_args(arguments).check
    stale = {path: text for path, text in pages().items() if _read(path) != text}
    for path, text in stale.items():
        print(f"{path.name} is out of date" if check else f"wrote {path.name}")
        if not check:
            path.write_text(text, encoding="utf-8")
    return 1 if check and stale else 0


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def pages() -> dict[Path, str]:
    """Every page with generated parts, as it should be."""
    form = json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"
    found = {FOLDER / "run.schema.json": form}
    for path in sorted(FOLDER.glob("*.md")):
        text = _read(path)
        if _BLOCK.search(text):
            found[path] = _BLOCK.sub(lambda match: match[1] + BLOCKS[match[2]]() + match[3], text)
    return found


# --- tables ------------------------------------------------------------------------------------


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def code(text: str) -> str:
    """`text` as code; a bar would end the cell of a table."""
    return f"`{text}`".replace("|", "\\|") if text else ""


def fusions() -> str:
    """The fusions of TensorRT."""
    return _pattern_table(TENSORRT_FUSION_PATTERNS)


def conversions() -> str:
    """The conversions of TensorRT."""
    return _pattern_table(TENSORRT_CONVERSION_PATTERNS)


def smart() -> str:
    """What the smart list has that the full one has not."""
    return _pattern_table(_added(TENSORRT_SMART_PATTERNS))


def mixed() -> str:
    """What the mixed-precision list has that the smart one has not."""
    smart_ones = set(TENSORRT_SMART_PATTERNS)
    added = [one for one in _added(TENSORRT_MIXED_PRECISION_PATTERNS) if one not in smart_ones]
    return _pattern_table(added)


def activations() -> str:
    """What an activation is."""
    return ", ".join(code(kind.__name__) for kind in ACTIVATIONS) + "\n"


def _added(patterns: Sequence[type[Pattern]]) -> list[type[Pattern]]:
    known = set(TENSORRT_PATTERNS)
    return [one for one in patterns if one not in known]


def _pattern_table(patterns: Sequence[type[Pattern]]) -> str:
    if all(one.stage is Stage.CONVERSION for one in patterns):
        return table(
            ("Pattern", "Tree", "What it does"),
            [(code(one.__name__), code(tree_text(one.tree)), first_line(one)) for one in patterns],
        )
    header = ("Pattern", "Tree", "Produces", "Q/DQ points", "What it is")
    return table(header, [_fusion_row(one) for one in patterns])


def _fusion_row(pattern: type[Pattern]) -> tuple[str, ...]:
    produced = inspect.signature(pattern.build).return_annotation.__name__
    points = ", ".join(code(point.name) for point in pattern.qdq_points)
    tree = code(tree_text(pattern.tree))
    return code(pattern.__name__), tree, code(produced), points or "none", first_line(pattern)


def counts() -> str:
    """Fused modules of each model with all patterns."""
    return _count_table(TENSORRT_PATTERNS)


def counts_of_fusions() -> str:
    """Fused modules of each model with the fusions alone."""
    return _count_table(TENSORRT_FUSION_PATTERNS)


def _count_table(patterns: Sequence[type[Pattern]]) -> str:
    found = {name: _count(name, patterns) for name in COUNTED}
    order = [inspect.signature(one.build).return_annotation for one in TENSORRT_FUSION_PATTERNS]
    kinds = dict.fromkeys(kind.__name__ for kind in order)
    rows = [
        (code(kind), *(str(found[name][kind] or "–") for name in COUNTED))
        for kind in kinds
        if any(found[name][kind] for name in COUNTED)
    ]
    sums = [str(found[name].total()) for name in COUNTED]
    return table(("", *map(code, COUNTED)), [*rows, ("all", *sums)])


def _count(name: str, patterns: Sequence[type[Pattern]]) -> Counter[str]:
    """On the meta device: the figures need shapes, not weights."""
    models = importlib.import_module("torchvision.models")
    with torch.device("meta"):
        model = models.get_model(name).eval()
        example = torch.empty(1, 3, 224, 224)
    return transform(model, (example,), patterns=patterns, copy=False).fused


def inspect_options() -> str:
    """The options of `embedl-deploy inspect`."""
    return _options("inspect")


def deploy_options() -> str:
    """The options of `embedl-deploy deploy`."""
    return _options("deploy")


def run_options() -> str:
    """The options of `embedl-deploy run`."""
    return _options("run")


def analyze_options() -> str:
    """The options of `embedl-deploy analyze`."""
    return _options("analyze")


def tune_options() -> str:
    """The options of `embedl-deploy tune`."""
    return _options("tune")


def check_options() -> str:
    """The options of `embedl-deploy check`."""
    return _options("check")


def explain_options() -> str:
    """The options of `embedl-deploy explain`."""
    return _options("explain")


def verify_options() -> str:
    """The options of `embedl-deploy verify`."""
    return _options("verify")


def compare_options() -> str:
    """The options of `embedl-deploy compare`."""
    return _options("compare")


def build_options() -> str:
    """The options of `embedl-deploy build`."""
    return _options("build")


def kernel_fusions() -> str:
    """What runs as one kernel."""
    return _fusion_table(one for one in FUSIONS if one.runs and one.kind)


def folding_fusions() -> str:
    """What another kernel takes in."""
    return _fusion_table(one for one in FUSIONS if not one.kind)


def free_fusions() -> str:
    """What takes no kernel."""
    return _fusion_table(one for one in FUSIONS if not one.runs)


def _fusion_table(fusions: Iterable[Fusion]) -> str:
    rows = [(one.id, one.kind, one.title, _basis(one), one.source) for one in fusions]
    named = any(row[1] for row in rows)
    header = ("Rule", "Kernel", "What it takes", "Basis", "Source")
    keep = [index for index in range(5) if named or index != 1]
    return table([header[at] for at in keep], [[row[at] for at in keep] for row in rows])


def _basis(fusion: Fusion) -> str:
    """How well a rule is founded, and what was seen of it."""
    seen = _verdicts()[fusion.id]
    agrees = seen in {"as predicted", "merged"} or (seen == "refused" and not fusion.runs)
    said = fusion.basis.value
    if agrees:
        return said if said == "compiled" else f"{said}, compiled"
    return f"{said}; RTX: {seen}"


@cache
def _verdicts() -> dict[str, str]:
    return verdicts()


def format_rules() -> str:
    """The rules of the format."""
    return _rule_table(FORMAT_RULES)


def type_rules() -> str:
    """The rules of types."""
    return _rule_table(TYPE_RULES)


def placement_rules() -> str:
    """The rules of placement."""
    return _rule_table(PLACEMENT_RULES)


def _rule_table(rules: Sequence[Rule]) -> str:
    header = ("Rule", "Severity", "What has to hold", "Why", "Source", "Compiled", "What to do")
    seen = _verdicts()
    rows = [
        (one.id, one.severity.value, one.title, one.why, one.source, seen[one.id], one.remedy)
        for one in rules
    ]
    return table(header, [[cell.replace("|", "\\|") for cell in row] for row in rows])


def _options(name: str) -> str:
    import typer

    from embedl_deploy.cli.app import app

    group: Any = typer.main.get_command(app)
    rows = []
    for one in sorted(group.commands[name].params, key=lambda one: one.opts[0].startswith("-")):
        is_option = one.opts[0].startswith("-")
        words = f"{one.opts[0]} {one.metavar or ''}" if is_option else one.metavar
        shown = one.show_default and not one.is_flag and one.default is not None
        default = str(one.default) if shown else ""
        rows.append((code(words.strip()), one.help, code(default)))
    return table(("option", "what it says", "default"), rows)


BLOCKS: dict[str, Callable[[], str]] = {
    block.__name__: block
    for block in (
        fusions,
        conversions,
        smart,
        mixed,
        activations,
        counts,
        counts_of_fusions,
        inspect_options,
        deploy_options,
        run_options,
        analyze_options,
        tune_options,
        check_options,
        explain_options,
        verify_options,
        compare_options,
        build_options,
        kernel_fusions,
        folding_fusions,
        free_fusions,
        format_rules,
        type_rules,
        placement_rules,
    )
}


if __name__ == "__main__":
    import_torchvision()
    sys.exit(main())
