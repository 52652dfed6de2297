"""`embedl-deploy analyze` says which layer quantization hurts, and writes nothing."""

from pathlib import Path

import pytest

from embedl_deploy.cli.commands import analyze
from tests.cli.commands import files, run, run_json

SMALL = ("analyze", "user_nets:small")


def test_the_table_has_the_worst_on_top(folder: Path) -> None:
    before = files(folder)
    result = run(*SMALL, "--data", "rows.npz", "--sensitivity")
    lines = [line.split() for line in result.stdout.splitlines() if " dB" in line]
    (last,) = (line for line in lines if line[:2] == ["At", "output"])
    assert float(last[2]) > 10
    shown = [float(line[2]) for line in lines if line is not last]
    assert shown == sorted(shown)
    assert len(shown) > 6
    assert files(folder) == before


@pytest.mark.usefixtures("folder")
def test_json_has_every_place() -> None:
    found = run_json(*SMALL, "--data", "rows.npz", "--observer", "percentile")
    kinds = {row["kind"] for row in found["rows"]}
    assert {"stub", "FusedConvBN", "FusedConvBNReLU", "FusedLinear"} <= kinds
    assert found["output_sqnr_db"] > 10
    assert (found["model"], found["data"]) == ("user_nets:small", "rows.npz")
    assert all(row["output_sqnr_db"] is None for row in found["rows"])


@pytest.mark.usefixtures("folder")
def test_figures_that_were_not_asked_for_have_no_column() -> None:
    header = run(*SMALL, "--data", "rows.npz").stdout.splitlines()[0].split()
    assert header == ["SQNR", "Clipped", "Outliers", "Place"]


@pytest.mark.usefixtures("folder")
def test_the_rest_is_counted_and_can_be_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analyze, "_SHOWN", 3)
    some = run(*SMALL, "--data", "rows.npz").stdout
    every = run(*SMALL, "--data", "rows.npz", "--all").stdout
    count = len([line for line in every.splitlines() if " dB" in line]) - 1
    assert f"{count - 3} places that hurt less; --all lists them" in " ".join(some.split())
    assert "Not shown" not in every


@pytest.mark.usefixtures("folder")
def test_options_that_contradict_are_refused() -> None:
    result = run(*SMALL, "--data", "rows.npz", "--percentile", "99", code=2)
    assert "--percentile needs --observer percentile" in " ".join(result.stderr.split())
