"""What is left in floating point by choice."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from torch import nn

from embedl_deploy.errors import QuantizationError
from embedl_deploy.modules import FusedModule

Selector = str | type[nn.Module] | nn.Module | Callable[[str, nn.Module], bool]
"""Which fused modules: a path pattern, a class, a module, or a function of path and module."""


@dataclass(frozen=True)
class Skip:
    """Fused modules whose inputs, weights or both are not quantized.

    Attributes:
        which: A pattern such as `"layer1.*"` or `"head"` for the path of the module or of one
            that holds it; a class, of the fused module or of an operation in it; a module, that
            one or what it holds; or a function of the path and the fused module.
        activations: Whether to leave out its stubs. A stub that others read stays for them.
        weights: Whether to leave out its weight quantizers.
    """

    which: Selector
    activations: bool = True
    weights: bool = True

    def fits(self, path: str, module: FusedModule) -> bool:
        """Whether it selects a fused module."""
        match self.which:
            case str() as pattern:
                return any(fnmatchcase(part, pattern) for part in _parts(path))
            case type() as kind:
                return any(isinstance(one, kind) for one in module.modules())
            case nn.Module() as chosen:
                return module in {*chosen.modules()} or chosen in {*module.modules()}
        return self.which(path, module)

    def __str__(self) -> str:
        match self.which:
            case str() as pattern:
                return f"'{pattern}'"
            case type() as kind:
                return kind.__name__
            case nn.Module() as chosen:
                return f"this {type(chosen).__name__}"
        return getattr(self.which, "__name__", "a function")


@dataclass(frozen=True)
class Skipped:
    """What is skipped at one fused module, and by which choice.

    Attributes:
        activations: The choice that leaves out stubs, in words; empty where none does.
        weights: The choice that leaves out weight quantizers.
    """

    activations: str = ""
    weights: str = ""

    def without_activations(self) -> "Skipped":
        """The same where weights alone are quantized."""
        return replace(self, activations=self.activations or "activations=None")


def skipped(model: nn.Module, skips: Sequence[Skip]) -> dict[str, Skipped]:
    """What the choices skip, by path of the fused module.

    Raises:
        QuantizationError: A path pattern or a module selects nothing.
    """
    fused = {path: one for path, one in model.named_modules() if isinstance(one, FusedModule)}
    chosen = {skip: {path for path, one in fused.items() if skip.fits(path, one)} for skip in skips}
    for skip, paths in chosen.items():
        if not paths and isinstance(skip.which, str | nn.Module):
            raise QuantizationError(
                f"skip selects no fused module with {skip}; print(result), or inspect --all on the "
                "command line, shows their paths, and a module must be one of result.model"
            )
    return {path: _at(path, chosen) for path in fused}


def _at(path: str, chosen: dict[Skip, set[str]]) -> Skipped:
    skips = [skip for skip, paths in chosen.items() if path in paths]
    activations = next((str(skip) for skip in skips if skip.activations), "")
    return Skipped(activations, next((str(skip) for skip in skips if skip.weights), ""))


def _parts(path: str) -> Iterator[str]:
    """`a`, `a.b` and `a.b.c` of `a.b.c`."""
    names = path.split(".")
    return (".".join(names[: end + 1]) for end in range(len(names)))
