"""Which numbers a file would hold, and whether opset and target take them."""

from collections.abc import Mapping

from torch import fx

from embedl_deploy.errors import ExportError
from embedl_deploy.export.options import ExportOptions
from embedl_deploy.quantize import QuantStub, WeightFakeQuantize
from embedl_deploy.target import Numbers

_FIRST_OPSET: Mapping[Numbers, int] = {"int8": 18, "uint8": 18, "float8_e4m3": 19, "int4": 21}
"""First version whose Q/DQ operators take them; those of weights in blocks take a block size."""

_WORDS: Mapping[Numbers, str] = {
    "int8": "signed integers",
    "uint8": "unsigned integers",
    "float8_e4m3": "FP8",
    "int4": "weights in blocks",
}


def check_numbers(model: fx.GraphModule, options: ExportOptions) -> None:
    """Raise unless the target and the opset take the numbers of every quantizer.

    Raises:
        ExportError: They do not, or weights in blocks are to be stored in floating point.
    """
    for path, one in model.named_modules():
        if not isinstance(one, QuantStub | WeightFakeQuantize):
            continue
        numbers = _numbers(one)
        if numbers not in options.target.numbers:
            raise ExportError(
                f"'{path}' simulates {_WORDS[numbers]}, and {options.target.name} takes "
                f"{_listed(options)} alone; quantize with other numbers, such as signed=True"
            )
        if options.version < _FIRST_OPSET[numbers]:
            needed = "need" if numbers == "int4" else "needs"
            raise ExportError(
                f"{_WORDS[numbers]} {needed} opset {_FIRST_OPSET[numbers]}, not {options.version}"
            )
        if numbers == "int4" and options.lowering.quantized_weights == "float":
            raise ExportError("weights in blocks are stored as numbers, not in floating point")


def _numbers(quantizer: QuantStub | WeightFakeQuantize) -> Numbers:
    config = quantizer.config
    if config.format != "int":
        return "float8_e4m3"
    if config.block_size is not None:
        return "int4"
    unsigned = isinstance(quantizer, QuantStub) and not quantizer.signed
    return "uint8" if unsigned else "int8"


def _listed(options: ExportOptions) -> str:
    return ", ".join(words for one, words in _WORDS.items() if one in options.target.numbers)
