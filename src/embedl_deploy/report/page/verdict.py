"""The verdict of a page: one line for each part, with how good it is."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from embedl_deploy.table import amount, counted, percent

Entry = Mapping[str, Any]
Line = tuple[str, str]
"""Good, info, warn or bad; and the text."""


def verdict(page: Entry) -> list[dict[str, str]]:
    """What the parts of a page come to."""
    lines: list[Line] = []
    if page["answers"]:
        lines.append(_answered(page["answers"]))
    if page["tuning"]:
        lines.append(("info", f"Placement: {page['tuning']['verdict']}"))
    if page["analysis"]:
        lines.append(_analyzed(page["analysis"]))
    if page["parity"]:
        lines.append(_verified(page["parity"]))
    if page["summary"]:
        lines.append(_fused(page["summary"]))
    if page["check"]:
        lines.append(_checked(page["check"]))
    if page["explanation"]:
        lines += _expected(page["explanation"], checked=bool(page["check"]))
    if page["beside"]:
        lines += _beside(page["beside"])
    lines += (_compiled(one) for one in page["compilations"])
    if page["comparison"]:
        lines.append(_compared(page["comparison"]))
    return [{"level": level, "text": text} for level, text in lines]


def _checked(check: Entry) -> Line:
    words = (("errors", "error"), ("warnings", "warning"), ("infos", "note"))
    counts = ", ".join(counted(check[key], word) for key, word in words)
    told = f"{counts} by {counted(len(check['rules']), 'rule')} for TensorRT {check['version']}"
    if check["errors"]:
        return "bad", f"TensorRT refuses this file, or computes something else than it says: {told}"
    if check["warnings"]:
        return "warn", f"No rule refuses this file, and it runs slower than it could: {told}"
    return "good", f"No rule objects to this file: {told}"


def _expected(explanation: Entry, *, checked: bool) -> Iterator[Line]:
    refusals = len(explanation["refusals"])
    if refusals and not checked:
        yield "bad", f"TensorRT refuses this file as it is: {counted(refusals, 'error')}"
    total = sum(explanation["macs"].values())
    shares = ", ".join(f"{percent(share)} in {k}" for k, share in explanation["shares"].items())
    said = f"{amount(total)} multiply-accumulates: {shares}" if shares else "nothing is counted"
    open_ = len(explanation["uncounted"])
    more = f"; {counted(open_, 'operator')} not counted" if open_ else ""
    yield "info", f"{counted(len(explanation['kernels']), 'kernel')} expected; {said}{more}"
    yield from (("warn", one) for one in explanation["assumed"])


def _compiled(one: Entry) -> Line:
    by = " for ".join(filter(None, (one["compiler"], one["gpu"])))
    if not one["built"]:
        why = next((it["message"] for it in one["remarks"] if it["severity"] == "error"), "")
        return "bad", f"{by} built no engine{f': {why}' if why else ''}"
    lost = one["fates"].get("lost", 0)
    kernels = counted(one["kernels"], "kernel")
    if lost:
        return "warn", f"{by}: {kernels}; {counted(lost, 'product')} computed in a wider type"
    return "good", f"{by}: {kernels}; no product lost its type"


def _compared(comparison: Entry) -> Line:
    counts = ", ".join(f"{count} {outcome}" for outcome, count in comparison["counts"].items())
    broken = len(comparison["broken"])
    told = f"Of {counted(len(comparison['held']), 'predicted kernel')}: {counts or 'none'}"
    if broken:
        return "warn", f"{told}; not held: {counted(broken, 'documented prediction')}"
    return "good", told


def _answered(answers: Entry) -> Line:
    found = [one for one in answers["outputs"] if one["sqnr_db"] is not None]
    worst = min(found, key=lambda one: one["sqnr_db"], default=answers)
    several = len(answers["outputs"]) > 1 and worst is not answers
    where = f"{worst['name']}, the worst output" if several else "the outputs"
    parts = [f"{answers['word']} against float: {_decibels(worst['sqnr_db'])} at {where}"]
    judged = [one for one in answers["outputs"] if one["agreement"] is not None]
    parts += [f"the same class for {percent(one['agreement'])} of {one['rows']}" for one in judged]
    if right := answers["accuracy"]:
        parts.append(f"top-1 {percent(right['file_top1'])}, float {percent(right['float_top1'])}")
    return "info", "; ".join((*parts, counted(answers["samples"], "sample")))


def _beside(beside: Entry) -> Iterator[Line]:
    first, second = (one["file"] for one in beside["files"])
    samples = counted(beside["samples"], "sample")
    on = f"on {samples} of {beside['data'] or 'random numbers'}"
    for one in beside["outputs"]:
        told = f"{second} against {first}: {_decibels(one['sqnr_db'])} at {one['name']}, {on}"
        same = f"; the same class for {percent(one['agreement'])}" if one["rows"] else ""
        yield "info", told + same
    for one in beside["files"]:
        counts: Counter[str] = Counter()
        for name, count in one["findings"].items():
            counts[name.split()[1]] += count
        words = (("error", "error"), ("warning", "warning"), ("info", "note"))
        told = ", ".join(counted(counts[key], word) for key, word in words)
        yield (
            "bad" if counts["error"] else "warn" if counts["warning"] else "good",
            (f"{one['file']}: {told} by the rules"),
        )


def _analyzed(analysis: Entry) -> Line:
    told = f"With everything quantized: {_decibels(analysis['output_sqnr_db'])} at the outputs"
    rows = [one for one in analysis["rows"] if one["sqnr_db"] is not None]
    if not rows:
        return "info", told
    worst = min(rows, key=lambda one: one["sqnr_db"])
    return "info", f"{told}; the largest error of its own is at {worst['path']}, " + _decibels(
        worst["sqnr_db"]
    )


def _decibels(value: float | None) -> str:
    return "no error" if value is None else f"{value:.1f} dB"


def _verified(parity: Entry) -> Line:
    figure = _decibels(parity["sqnr_db"])
    if not parity["layers"]:
        return "info", f"The file against the model: {figure} at the outputs"
    if parity["only_ties"]:
        places = counted(len(parity["layers"]), "quantizer")
        return "good", f"The file computes what was simulated, at {places} ({figure} between them)"
    wrong = next((one["path"] for one in parity["layers"] if one["diverges"]), "")
    where = f"; first at {wrong}" if wrong else ""
    return "bad", f"The file does not compute what was simulated: {figure}{where}"


def _fused(summary: Entry) -> Line:
    covered = summary["coverage"]
    share = f", with {percent(covered['share'])} of the arithmetic" if covered else ""
    left = len(summary["unfused"])
    outside = f"; {counted(left, 'layer')} with weights in none" if left else ""
    fusions = counted(len(summary["fusions"]), "fused module")
    return ("warn" if left else "good"), f"{fusions}{share}{outside}"
