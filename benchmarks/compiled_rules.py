"""What NVIDIA’s compiler makes of small files that break and keep each rule: `make compiled`.

Each rule of `check` has a file that breaks it and one that does not, each rule of `explain` a file
in which it holds and one in which it does not. What has run is kept, and runs again where the file
or the compiler is another. `docs/rules.md` and `docs/kernels.md` show what came of it.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from embedl_deploy.tensorrt import Outcome, compare_layers, compile_onnx, explain_onnx
from embedl_deploy.tensorrt.engine.log import READ_VERSION
from tests.tensorrt.prediction.cases import CASES
from tests.tensorrt.rules.format_cases import FORMAT, TYPES
from tests.tensorrt.rules.placement_cases import PLACEMENT

if TYPE_CHECKING:
    from embedl_deploy.tensorrt import Compilation
    from tests.tensorrt.rules.models import Text

GPU = "rtx4090"
DATA = Path(__file__).parents[1] / "docs" / "compiled_rules.json"
COMPILER = f"TensorRT for RTX {READ_VERSION}"


@dataclass(frozen=True)
class Seen:
    """What came of one file.

    Attributes:
        rule: Whose file it is.
        place: `broken` or `kept`, `holds` or `not`.
        digest: Of the file.
        compiler: Its name and version.
        error: What stopped it; empty where there is an engine.
        kernels: How many.
        bytes: That they read and write.
        products: What was stored and what was computed in, by operator.
        attention: Types that each attention reads as one kernel; empty where it is several.
        outcome: Of the kernel that a rule of `explain` predicts.
    """

    rule: str
    place: str
    digest: str
    compiler: str
    error: str
    kernels: int
    bytes: int | None
    products: Mapping[str, tuple[str, str]]
    attention: tuple[str, ...]
    outcome: str = ""

    @property
    def types(self) -> list[str]:
        """What the products are computed in, in order."""
        return [computed for _, computed in self.products.values()]


def files() -> Iterator[tuple[str, str, "Text"]]:
    """The rule, the place and the file, of all."""
    for rule, pair in (FORMAT | TYPES | PLACEMENT).items():
        yield rule, "broken", pair[0]
        yield rule, "kept", pair[1]
    for rule, case in CASES.items():
        yield rule, "holds", case.holds
        yield rule, "not", case.not_


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile what has not been compiled, and write it down."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compiled_rules", description=__doc__
    )
    parser.add_argument("--data", type=Path, default=DATA)
    path: Path = parser.parse_args(arguments).data
    known = {(one.rule, one.place): one for one in read(path)}
    found = []
    for rule, place, text in files():
        old = known.get((rule, place))
        if old is None or old.compiler != COMPILER or old.digest != digest(text):
            print(f"… {rule} {place}", file=sys.stderr, flush=True)
            old = see(rule, place, text)
        found.append(old)
    lines = ",\n".join(json.dumps(asdict(one)) for one in found)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    return 0


def read(path: Path = DATA) -> list[Seen]:
    """What was written down."""
    entries = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return [_seen(**entry) for entry in entries]


def _seen(products: Mapping[str, Sequence[str]], attention: Sequence[str], **entry: Any) -> Seen:
    pairs = {name: (stored, computed) for name, (stored, computed) in products.items()}
    return Seen(products=pairs, attention=tuple(attention), **entry)


def digest(text: "Text") -> str:
    """Of what is compiled."""
    content = text.proto().SerializeToString(deterministic=True)
    return hashlib.sha256(content).hexdigest()[:12]


def see(rule: str, place: str, text: "Text") -> Seen:
    """Compile one file."""
    with TemporaryDirectory() as folder:
        path = text.save(Path(folder))
        made = compile_onnx(path, GPU, compiler="rtx", timeout=120)
        outcome = _outcome(rule, path, made) if place == "holds" and made.built else ""
    return Seen(
        rule,
        place,
        digest(text),
        made.compiler,
        made.errors[0].message[:160] if made.errors else "",
        len(made.kernels),
        made.bytes,
        {one.node: (one.simulated, one.computed) for one in made.products},
        tuple("/".join(one.reads) for one in made.attentions),
        outcome,
    )


def _outcome(rule: str, path: Path, made: "Compilation") -> str:
    held = compare_layers(explain_onnx(path), made.layers).held
    found = [one.outcome for one in held if rule in one.kernel.rules]
    if rule.startswith("N"):
        return _of_nothing(set(CASES[rule].nodes), made)
    return found[0].value if found else Outcome.UNSEEN.value


def _of_nothing(nodes: set[str], made: "Compilation") -> str:
    """Of operators that are to take no kernel."""
    if any(not one.inputs for one in made.kernels):
        return "at every inference"
    own = any(one.nodes and set(one.nodes) <= nodes for one in made.kernels)
    return "kernel of its own" if own else Outcome.AS_PREDICTED.value


# --- in words -----------------------------------------------------------------------------------


def of_check(broken: Seen, kept: Seen) -> str:
    """What breaking a rule of `check` does."""
    if broken.error:
        return "crash" if "crashed" in broken.error else "refused"
    if misread := [stored for stored, _ in broken.products.values() if stored == "UINT8"]:
        return f"{misread[0]} read as INT8"
    said = []
    if broken.types != kept.types and len(broken.types) == len(kept.types):
        said.append(f"{_listed(broken.types)} instead of {_listed(kept.types)}")
    if broken.attention != kept.attention:
        said.append("attention in several kernels" if kept.attention[0] else "attention differs")
    if broken.kernels != kept.kernels and len(broken.types) == len(kept.types):
        said.append(f"{broken.kernels} kernels instead of {kept.kernels}")
    if broken.kernels == kept.kernels and broken.bytes and kept.bytes and not said:
        more = broken.bytes / kept.bytes
        said += [f"{more:.1f} times the bytes"] if more > 1.1 else []
    return "; ".join(said) or "no difference"


def _listed(types: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(types))


def of_explain(seen: Seen) -> str:
    """Whether what a rule of `explain` says was seen."""
    return "refused" if seen.error else seen.outcome


def verdicts(path: Path = DATA) -> dict[str, str]:
    """By rule, in words."""
    found = {(one.rule, one.place): one for one in read(path)}
    said = {}
    for (rule, place), one in found.items():
        if place == "broken":
            said[rule] = of_check(one, found[rule, "kept"])
        elif place == "holds":
            said[rule] = of_explain(one)
    return said


if __name__ == "__main__":
    sys.exit(main())
