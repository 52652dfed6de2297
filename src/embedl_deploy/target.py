"""A compiler to prepare a model for, as one value.

A target is data: rewriting, quantization, export and the commands ask it for what differs between
compilers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

from torch import fx, nn

from embedl_deploy.errors import DeployError, ExportError, PatternError
from embedl_deploy.modules import FusedModule
from embedl_deploy.patterns import Pattern

if TYPE_CHECKING:
    from embedl_deploy.quantize import QuantConfig

Patterns = Sequence[Pattern | type[Pattern]]

Numbers = Literal["int8", "uint8", "float8_e4m3", "int4"]
"""What a file stores of quantized tensors; `int4` are weights in blocks."""

StoredAs = Literal["int8", "float"]
"""How a quantized weight is stored."""

_KEY = "target"
"""Where the `meta` of a model keeps its target."""


@dataclass(frozen=True)
class Lowering:
    """How the file says what ONNX can say in several ways. By default nothing is rewritten.

    Attributes:
        whole_attention: Whether the exporter writes attention, by its own decomposition or as the
            operator `Attention`, where the probabilities are not quantized. Else it is written as
            product, softmax and product.
        factor_first: Whether the factor on the logits is before the query's Q/DQ pair.
        key_first: Whether the key is transposed before its Q/DQ pair.
        separate_projections: Whether a quantized weight that holds the query's, the key's and the
            value's is written as three, each with a product of its own.
        one_weight_scale: Whether a quantized weight of a convolution, a linear layer or a packed
            projection of one input, which is not separated then, has one scale in the file, and
            the product is multiplied by what is left of each channel's own.
        plain_pooling: Whether adaptive average pooling is written as `GlobalAveragePool` or
            `AveragePool`.
        normal_scales: Whether weights whose scale is below the smallest normal number of a
            half-precision file get that scale, with numbers rounded anew.
        vectors_as_rows: Whether softmax and argmax of one dimension are written as those of a
            matrix of one row.
        quantized_weights: How weights are stored: as numbers, or in floating point before a pair.
    """

    whole_attention: bool = True
    factor_first: bool = False
    key_first: bool = False
    separate_projections: bool = False
    one_weight_scale: bool = False
    plain_pooling: bool = False
    normal_scales: bool = False
    vectors_as_rows: bool = False
    quantized_weights: StoredAs = "int8"


def _missing(*_: Any, **__: Any) -> Any:
    raise DeployError("the target has no function for this; give it one, such as Target(check=…)")


@dataclass(frozen=True, kw_only=True, repr=False)
class Target:
    """What a compiler wants.

    Attributes:
        name: In messages.
        patterns: Conversions and fusions; earlier ones take precedence.
        config: How its models are quantized where nothing else is said.
        lists: Other lists of patterns by name, such as `smart`.
        lowering: How the file is written.
        opsets: Versions of ONNX's operators that it reads.
        opset: The version that is written where nothing asks for another.
        numbers: Kinds of quantized numbers that it takes.
        check: Judges a file, with arguments and result as `check_onnx`.
        explain: Predicts the kernels of a file, likewise as `explain_onnx`.
        build: Builds an engine of a file, likewise as `compile_onnx`.

    Raises:
        ExportError: `opset` is not one of `opsets`.
    """

    name: str
    patterns: Patterns
    config: "QuantConfig"
    lists: Mapping[str, Patterns] = field(default_factory=dict)
    lowering: Lowering = Lowering()
    opsets: range = range(18, 25)
    opset: int = 21
    numbers: frozenset[Numbers] = frozenset({"int8"})
    check: Callable[..., Any] = _missing
    explain: Callable[..., Any] = _missing
    build: Callable[..., Any] = _missing

    def __post_init__(self) -> None:
        if self.opset not in self.opsets:
            raise ExportError(
                f"opset {self.opset} is not one that {self.name} reads, {self.opsets[0]} to "
                f"{self.opsets[-1]}; choose one of these"
            )

    def __repr__(self) -> str:
        return f"Target({self.name!r})"

    def __deepcopy__(self, _: dict[int, Any]) -> Self:
        return self

    def named(self, name: str) -> Patterns:
        """The list of patterns with a name; `full` is `patterns`.

        Raises:
            PatternError: There is none.
        """
        lists = {"full": self.patterns, **self.lists}
        if name not in lists:
            raise PatternError(f"{self.name} has no list '{name}'; choose {', '.join(lists)}")
        return lists[name]


def remember(model: fx.GraphModule, target: Target) -> None:
    """Note the target of a model: in its `meta`, which copies keep, and in its fused modules.

    `torch` drops the `meta` of a graph that is pickled or rebuilt.
    """
    model.meta[_KEY] = target
    for module in model.modules():
        if isinstance(module, FusedModule):
            module.target = target


def target_of(model: nn.Module) -> Target | None:
    """The target that a model was transformed for; `None` where none is known."""
    noted = [getattr(model, "meta", {}).get(_KEY)]
    noted += [one.target for one in model.modules() if isinstance(one, FusedModule)]
    return next((one for one in noted if one is not None), None)
