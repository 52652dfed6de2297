"""A plan on disk, and whether it is one of a model."""

import json
from dataclasses import dataclass
from pathlib import Path

from torch import fx

from embedl_deploy.default import target_for
from embedl_deploy.errors import LoadError, QuantizationError
from embedl_deploy.modules import FusedModule
from embedl_deploy.quantize import QuantConfig
from embedl_deploy.rewrite import Result

SCHEMA = 4
"""Version of the form of a plan on disk."""


@dataclass(frozen=True)
class Plan:
    """A plan on disk.

    Attributes:
        path: The file.
        config: How to quantize; None: not at all, half precision is better.
        target: The name of the target that files were written for.
        compiler: That gave the costs, with its version; empty where a function did.
        gpu: That it compiled for; likewise.
        batch: Samples that the files took at a time.
        precision: Of what is not quantized in the files.
        layers: Paths of the fused modules that it knows.
    """

    path: Path
    config: QuantConfig | None
    target: str
    compiler: str
    gpu: str
    batch: int
    precision: str
    layers: tuple[str, ...]

    def check(self, result: Result | fx.GraphModule) -> None:
        """Check that it was made of such a model.

        Raises:
            LoadError: The model is transformed for another target, or has other fused modules.
        """
        model = result.model if isinstance(result, Result) else result
        target = target_for(model).name
        if self.target != target:
            raise LoadError(
                f"the plan '{self.path}' is for {self.target}, and the model was transformed for "
                f"{target}: choose that target, or tune for this one"
            )
        fused = {path for path, one in model.named_modules() if isinstance(one, FusedModule)}
        other = next((path for path in self.layers if path not in fused), None)
        if other is not None:
            raise LoadError(
                f"the plan '{self.path}' has '{other}', which is no fused module here: it is of "
                "another model or another list of patterns; take that one, or tune again"
            )


def read_plan(path: Path) -> Plan:
    """Read a plan that `embedl-deploy tune` wrote.

    Raises:
        LoadError: The file is no plan, or of another version.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        schema, config = stored["schema"], stored["config"]
        if schema != SCHEMA:
            raise LoadError(
                f"'{path}' is a plan of version {schema}; {SCHEMA} is known: tune again"
            )
        names = ("target", "compiler", "gpu", "precision")
        target, compiler, gpu, precision = (str(stored[name]) for name in names)
        batch = int(stored["batch"])
        layers = tuple(layer for group in stored["groups"] for layer in group["paths"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LoadError(f"'{path}' is no plan of embedl-deploy tune: {error}") from None
    try:
        chosen = None if config is None else QuantConfig.from_dict(config)
    except QuantizationError as error:
        raise LoadError(f"the plan '{path}': {error}") from None
    return Plan(path, chosen, target, compiler, gpu, batch, precision, layers)
