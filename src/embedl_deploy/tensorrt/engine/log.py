"""The layers in the log of TensorRT for RTX, whose runtime, and inspector, want a GPU.

That text is not an API: it is read as the version below writes it, and whatever is else is an
error.
"""

import re

from embedl_deploy.errors import BuildError
from embedl_deploy.tensorrt.engine.layers import Layer, LayerTensor, nodes_of, type_of

READ_VERSION = "1.7.1.116"
"""Of TensorRT for RTX; the extra `rtx` installs it."""

_LINE = re.compile(
    r"Name: (?P<name>.*), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], "
    r"Constants: \[(?P<constants>.*?)\], Outputs: \[(?P<outputs>.*?)\], "
    r"TacticName: .*, StreamId: \d+,(?: EventId: \d+,)? Metadata: (?P<metadata>.*)"
)
_JUMP = "LayerType: cjmp"
_TENSOR = re.compile(
    r"\{ Name: (?P<name>.*?), Dimensions: \[(?P<shape>[-\d,]*)\], .*?Datatype: (?P<type>\w+)"
)


def parse_log(text: str, version: str) -> tuple[Layer, ...]:
    """The layers in the message that begins with `Layers:`.

    Raises:
        BuildError: It reads otherwise than in the version that is known here, or has a loop.
    """
    if _JUMP in text:
        raise BuildError(
            "the engine has a loop, as of an LSTM over many steps: its layers run several "
            "times, and how often is not in the log; give fewer steps to see the layers"
        )
    _, *lines = text.split("\n\n", maxsplit=1)[0].split("\n")
    try:
        return tuple(map(_layer, lines or [text]))
    except ValueError as error:
        raise BuildError(
            f"the layers in the log of TensorRT for RTX {version} cannot be read, which are known "
            f"as {READ_VERSION} writes them: pip install 'embedl_deploy[rtx]' (at '{error}')"
        ) from None


def _layer(line: str) -> Layer:
    found = _LINE.fullmatch(line)
    if found is None:
        raise ValueError(line[:80])
    inputs, outputs, constants = (
        _tensors(found[key]) for key in ("inputs", "outputs", "constants")
    )
    nodes = nodes_of(found["metadata"], "")
    return Layer(found["name"], found["kind"], nodes, inputs, outputs, constants)


def _tensors(text: str) -> tuple[LayerTensor, ...]:
    tensors = tuple(map(_tensor, _TENSOR.finditer(text)))
    if len(tensors) != text.count("Dimensions: ["):
        raise ValueError(text[:80])
    return tensors


def _tensor(found: re.Match[str]) -> LayerTensor:
    dtype = type_of(found["type"])
    if not dtype:
        raise ValueError(found[0][:80])
    shape = tuple(int(size) for size in found["shape"].split(",") if size)
    return LayerTensor(found["name"], shape, dtype)
