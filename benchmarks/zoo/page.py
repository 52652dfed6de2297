"""The table of the zoo as a page: `docs/zoo.md`."""

import importlib.metadata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from benchmarks.zoo.entry import Entry
from benchmarks.zoo.notes import NOTES
from benchmarks.zoo.record import COVERED, COVERED_ATTENTION, DEEP, EXACT, Record

_PACKAGES = ("torch", "timm", "torchvision", "transformers")
_APART = 0.005
_INTRODUCTION = """\
# The zoo

<!-- This page is written by benchmarks/zoo; run `make zoo` to write it anew. -->

Any model in: what `transform(model, args, kwargs)` makes of models that nobody wrote for it. From
timm the smallest model of every family (by parameters, without the `test_` models), from
torchvision every model, of detectors the backbone and the heads (the selection of boxes is no
graph), from transformers models built from small configurations, and small models of each kind of
segmentation_models_pytorch, monai, spandrel, doctr, open_clip and Ultralytics. Weights are random:
no parameter is constant, and batch norms have the statistics of random inputs, so that an error
shows in the output.
"""
_WORDS = """\
- **way**: by `trace` (`torch.fx`) or by `export` (`torch.export`).
- **seconds**: processor time of `transform`, one thread.
- **coverage**: share of the multiply-accumulates that ended in fused modules, counted by torch as
  the graph runs and not by the library. The bar is {convolutional:.0%}; for attention models, those
  that multiply values with each other and not with weights alone, it is {attention:.0%}.
  {library}
- **layers**: convolutions, linear layers, layer norms and attentions that the source model calls.
  The law of conservation: each ends in exactly one fused module.
- **difference**: the largest |a − b| / largest |a| over all outputs, in float32. The bar is 1e-5,
  and 1e-4 for models with more than {deep} layers. Where more than 1e-5 differs, float64 is
  compared too (after the slash): below {exact:.0e} there, it is the rounding of float32.
"""

_FILES = """
## Files

The models of other packages are quantized with the default settings and random inputs, and exported
with float16 for the rest. **rounding alone**: at every stub and output, file and simulation differ
by the rounding of sums and by ties. **errors of check**: rules of `check_onnx`. **built**: an
engine, by TensorRT for RTX; **lost**: products computed in a wider type than was simulated. {good}
of {all} have no fault.

"""


def page(entries: Sequence[Entry], records: Mapping[str, Record]) -> str:
    """The whole page; an entry without a record has not run."""
    return "".join(_parts(entries, records))


def _parts(entries: Sequence[Entry], records: Mapping[str, Record]) -> Iterator[str]:
    known = [records[entry.name] for entry in entries if entry.name in records]
    missing = [entry for entry in entries if entry.name not in records]
    yield _INTRODUCTION
    versions = [f"{name} {_version(name)}" for name in _PACKAGES]
    yield f"\nRun with {', '.join(versions)}.\n\n"
    yield _summary(entries, records)
    yield "\n" + _classes(known)
    yield "\n" + _WORDS.format(
        convolutional=COVERED,
        attention=COVERED_ATTENTION,
        deep=DEEP,
        exact=EXACT,
        library=_library(known),
    )
    if missing:
        yield f"\nNot run: {', '.join(_code(one.name) for one in missing)}.\n"
    yield from _shortfalls(known)
    yield _files(known)
    for source in dict.fromkeys(entry.source for entry in entries):
        yield from _models(source, [one for one in known if one.name.startswith(f"{source}:")])


def _library(records: Sequence[Record]) -> str:
    """Where the library's own coverage is another one than that counted by torch."""
    apart = [
        _code(one.name)
        for one in records
        if one.coverage is not None
        and (one.library_coverage is None or abs(one.coverage - one.library_coverage) > _APART)
    ]
    if not apart:
        return "The library's own figure, `result.coverage`, is the same for all to half a percent."
    return f"The library's own figure is another one at {', '.join(apart)}."


def _version(package: str) -> str:
    return importlib.metadata.version(package).partition("+")[0]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _code(text: str) -> str:
    return f"`{text}`"


def _summary(entries: Sequence[Entry], records: Mapping[str, Record]) -> str:
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[_group(entry)].append(entry)
    rows = [_sums(name, some, records) for name, some in groups.items()]
    header = ("", "models", "captured", "equivalent", "conserving", "covered", "all of it")
    return table(header, [*rows, _sums("all", entries, records)])


def _group(entry: Entry) -> str:
    return f"torchvision, {entry.group}" if entry.source == "torchvision" else entry.source


def _sums(name: str, some: Sequence[Entry], records: Mapping[str, Record]) -> tuple[str, ...]:
    found = [records[entry.name] for entry in some if entry.name in records]
    counts = (
        sum(one.nodes > 0 for one in found),
        sum(one.equivalent for one in found),
        sum(one.conserving for one in found),
        sum(one.covered for one in found),
        sum(one.good for one in found),
    )
    return name, str(len(some)), *map(str, counts)


def _classes(records: Sequence[Record]) -> str:
    """Coverage of each class of models."""
    rows = []
    for name, attends, bar in (
        ("convolutional", False, COVERED),
        ("attention", True, COVERED_ATTENTION),
    ):
        found = [one for one in records if one.coverage is not None and one.attends == attends]
        shares = sorted(one.coverage or 0.0 for one in found)
        if shares:
            mean, met = sum(shares) / len(shares), sum(one.covered for one in found)
            figures = (f"{bar:.0%}", str(met), f"{mean:.2%}", f"{shares[0]:.1%}")
            rows.append((name, str(len(found)), *figures))
    return table(("class", "models", "bar", "covered", "mean coverage", "least"), rows)


def _files(records: Sequence[Record]) -> str:
    """What came of the INT8 files."""
    made = [(one, one.file) for one in records if one.file is not None]
    if not made:
        return ""
    rows = [
        (
            _code(one.name),
            "yes" if file.only_ties else _inline(file.error or file.parity),
            ", ".join(file.errors) or "none",
            {None: "not run", True: "yes"}.get(file.built) or _inline(file.refusal),
            str(file.lost) if file.built else "–",
        )
        for one, file in made
    ]
    good = sum(file.good for _, file in made)
    header = ("model", "rounding alone", "errors of check", "built", "lost")
    return f"{_FILES.format(good=good, all=len(made))}{table(header, rows)}"


# --- models --------------------------------------------------------------------------------------


def _models(source: str, records: Sequence[Record]) -> Iterator[str]:
    header = ("model", "of", "way", "seconds", "nodes", "fused modules")
    yield f"\n## {source}\n\n"
    judged = ("class", "coverage", "layers", "difference", "")
    yield table((*header, *judged), [_row(record) for record in records])


def _row(record: Record) -> tuple[str, ...]:
    name = _code(record.name.partition(":")[2])
    if not record.nodes:
        return name, record.group, *["–"] * 8, "fails"
    coverage = "–" if record.coverage is None else f"{record.coverage:.1%}"
    return (
        name,
        record.group,
        record.way,
        f"{record.seconds:.1f}",
        str(record.nodes),
        _fused(record),
        "attention" if record.attends else "convolutional",
        coverage,
        str(sum(record.used.values())),
        _difference(record),
        "good" if record.good else ", ".join(_lacks(record)),
    )


def _fused(record: Record) -> str:
    counts = sorted(record.fused.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{kind.removeprefix('Fused')} {count}" for kind, count in counts)


def _difference(record: Record) -> str:
    if record.difference is None:
        return "–"
    text = f"{record.difference:.1e}" if record.difference else "0"
    return text if record.difference64 is None else f"{text} / {record.difference64:.1e}"


def _lacks(record: Record) -> Iterator[str]:
    if record.error:
        yield "fails"
        return
    if not record.equivalent:
        yield "differs"
    if not record.conserving:
        yield "layers"
    if not record.covered:
        yield "coverage"
    if record.file is not None and not record.file.good:
        yield "file"


# --- shortfalls ----------------------------------------------------------------------------------


def _shortfalls(records: Sequence[Record]) -> Iterator[str]:
    short = [record for record in records if not record.good]
    if not short:
        return
    yield "\n## What falls short, and why\n\n"
    for record in short:
        yield f"- {_code(record.name)}: {'; '.join(_reasons(record))}\n"


def _reasons(record: Record) -> Iterator[str]:
    if record.error:
        yield _inline(record.error)
        return
    if record.weak:
        yield record.weak
    elif not record.equivalent:
        yield f"the output differs by {_difference(record)}"
    if record.lost:
        yield f"{len(record.lost)} layers in no fused module, first {_code(record.lost[0])}"
    if record.twice:
        yield f"{len(record.twice)} layers in too many, first {_code(record.twice[0])}"
    if not record.covered:
        yield from _uncovered(record)
    if record.file is not None and not record.file.good:
        yield "its file, see [Files](#files)"
    if record.name in NOTES:
        yield NOTES[record.name]


def _uncovered(record: Record) -> Iterator[str]:
    """What is not fused, by kind and reason, the largest shares first."""
    shares: dict[tuple[str, str], float] = defaultdict(float)
    first: dict[tuple[str, str], str] = {}
    for path, kind, share, reason in record.rest:
        shares[kind, reason] += share
        first.setdefault((kind, reason), path)
    ordered = sorted(shares, key=lambda one: -shares[one])
    yield from (
        f"{shares[one]:.1%} in {_code(one[0])} (first {_code(first[one])}): {_inline(one[1])}"
        for one in ordered[:4]
    )


def _inline(text: str) -> str:
    """On one line, with nothing that Markdown reads as more than words."""
    return _code(" ".join(text.replace("`", "'").split()))
