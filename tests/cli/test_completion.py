"""The shell completes models by names that the packages have, and imports none of them."""

import os
import subprocess
import sys

import pytest

from embedl_deploy.cli.names import complete_model
from embedl_deploy.cli.program import completed
from embedl_deploy.cli.torchvision_ops import import_torchvision


def test_names_are_those_that_torchvision_and_timm_have() -> None:
    import_torchvision()
    import timm
    from torchvision import models

    of_torchvision = {f"torchvision:{name}" for name in models.list_models()}
    assert set(complete_model("torchvision:")) == of_torchvision
    assert set(complete_model("timm:")) == {f"timm:{name}" for name in timm.list_models()}


def test_classes_of_transformers_have_a_task() -> None:
    import transformers

    found = complete_model("transformers:Bert")
    assert {"transformers:BertForSequenceClassification", "transformers:BertModel"} <= {*found}
    assert all(hasattr(transformers, one.partition(":")[2]) for one in found)
    assert not any("PreTrained" in one for one in found)


@pytest.mark.parametrize(
    ("word", "found"),
    [("t", ["torchvision:", "timm:", "transformers:"]), ("ti", ["timm:"]), ("nets:b", [])],
)
def test_packages_come_first(word: str, found: list[str]) -> None:
    assert complete_model(word) == found


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("inspect torchvision:resnet1", "resnet152"),
        ("ins", "inspect"),
        ("check --str", "--strict"),
    ],
)
def test_a_shell_gets_its_words(line: str, wanted: str) -> None:
    code = (
        "import sys; sys.argv = ['embedl-deploy']\n"
        "from embedl_deploy.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    asked = {
        "_EMBEDL_DEPLOY_COMPLETE": "complete_zsh",
        "_TYPER_COMPLETE_ARGS": f"embedl-deploy {line}",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **asked},
    )
    assert wanted in done.stdout
    assert done.stderr.strip() == "False"


@pytest.mark.parametrize(
    ("words", "loaded"),
    [
        ("embedl-deploy deploy --prec", ["deploy"]),
        ("embedl-deploy deploy nets:b", []),
        ("embedl-deploy explain x", ["explain"]),
        ("embedl-deploy", []),
    ],
)
def test_a_command_is_loaded_for_its_options_alone(
    monkeypatch: pytest.MonkeyPatch, words: str, loaded: list[str]
) -> None:
    monkeypatch.setenv("COMP_WORDS", words)
    assert list(completed()) == loaded
