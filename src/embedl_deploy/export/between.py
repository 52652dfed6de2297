"""Two ONNX files of any tools, on the same data."""

import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from embedl_deploy.batches import call_arguments, check_batches
from embedl_deploy.errors import VerificationError
from embedl_deploy.export.difference import Difference, OutputParity
from embedl_deploy.export.pieces import pieces
from embedl_deploy.export.probe import load
from embedl_deploy.export.products import show
from embedl_deploy.export.runtime import OnnxModel
from embedl_deploy.onnx_model.loading import path_of
from embedl_deploy.onnx_model.view import WEIGHTED
from embedl_deploy.quantize.calibrating.calibrate import Progress

if TYPE_CHECKING:
    import onnx_ir

_MARK = "/compared"
_NO_LAYERS = frozenset({"QuantizeLinear", "Constant", "Shape", "Cast"})
"""What has no value of its own to compare."""
_AFFINE = frozenset({"Add", "Mul"})


@dataclass(frozen=True)
class FileParity:
    """How a second file computes what a first one does.

    Attributes:
        outputs: By their names in the first file.
        layers: By name, operators of the same name and kind in both files, in the order of the
            first one; a product of a weight after the factor and the bias that follow it.
        samples: How many rows of data were compared.
        drawn: Whether the data were drawn at random, since none were given.
    """

    outputs: dict[str, OutputParity] = field(default_factory=dict)
    layers: dict[str, Difference] = field(default_factory=dict)
    samples: int = 0
    drawn: bool = False

    @property
    def sqnr_db(self) -> float:
        """Signal to noise of the output that has the least, in decibels."""
        return min((one.sqnr_db for one in self.outputs.values()), default=float("inf"))


def compare_files(
    first: str | Path,
    second: str | Path,
    data: Iterable[Any] | None = None,
    *,
    progress: Progress | None = None,
) -> FileParity:
    """Run two files with ONNX Runtime on the same data, and compare outputs and layers.

    Inputs and outputs belong together by their names, or by position where names differ.

    Args:
        first: What the figures are relative to; of any tool.
        second: Likewise.
        data: Batches of inputs of the first file, as `verify_onnx` takes them; by default one
            batch of random numbers, by a fixed seed.
        progress: Called after every batch.

    Raises:
        VerificationError: A file cannot be run, they have other inputs or outputs, or there is no
            data that fits them.
        CalibrationError: The data are no batches.
        MissingExtraError: The packages of the `onnx` extra are not installed.
    """
    paths = [path_of(one, VerificationError) for one in (first, second)]
    if data is not None:
        check_batches(data)
    with tempfile.TemporaryDirectory() as folder:
        pair = _Pair([load(one) for one in paths], Path(folder))
        return pair.over(data, progress)


class _Pair:
    """Both files, with what they share shown as outputs."""

    def __init__(self, files: Sequence["onnx_ir.Model"], folder: Path) -> None:
        self.drawn = _drawn(files[0])
        self.outputs = _matched(*([str(one.name) for one in file.graph.outputs] for file in files))
        self.layers = _shared(files)
        self.runs = [_shown(one, self.layers, folder / f"{i}.onnx") for i, one in enumerate(files)]
        self.inputs = _matched(*(one.input_names for one in self.runs), what="inputs")
        sizes = {one.batch_size for one in self.runs} - {None}
        if len(sizes) > 1:
            raise VerificationError(
                f"the files take batches of {' and of '.join(map(str, sorted(map(int, sizes))))}: "  # type: ignore[arg-type]
                "export both for the same"
            )
        self.size = next(iter(sizes), None)

    def over(self, data: Iterable[Any] | None, progress: Progress | None) -> FileParity:
        """Go through data, or through what is drawn."""
        outputs: dict[str, OutputParity] = {}
        layers: dict[str, Difference] = {}
        samples = 0
        batches = [_inputs(self.drawn)] if data is None else data
        for done, batch in enumerate(batches, 1):
            for named in self._pieces(batch):
                wanted, found = self._computed(named)
                for name, other in self.outputs.items():
                    _add(outputs, name, OutputParity(), wanted[name], found[other])
                for name in self.layers:
                    mark = name + _MARK
                    if wanted[mark].shape == found[mark].shape:
                        _add(layers, name, Difference(), wanted[mark], found[mark])
                samples += next((len(one) for one in named.values() if one.dim()), 1)
            if progress is not None:
                progress(done, None)
        if not samples:
            raise VerificationError("there is no data to compare with, or less than one batch")
        return FileParity(outputs, layers, samples, data is None)

    def _pieces(self, batch: Any) -> Iterator[dict[str, Tensor]]:
        """Inputs by their names in the first file, in pieces of the size that the files take."""
        args, kwargs = call_arguments(batch, len(self.inputs))
        named = dict(zip(self.inputs, args, strict=False)) | kwargs
        if named.keys() != self.inputs.keys():
            raise VerificationError(
                f"the files take the inputs {', '.join(self.inputs)}, and a batch has "
                f"{', '.join(named) or 'none'}"
            )
        yield from (piece for _, piece in pieces((), named, self.size))

    def _computed(self, named: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        one, other = self.runs
        return one(**named), other(**{self.inputs[name]: value for name, value in named.items()})


def _add(
    known: dict[str, Any], name: str, fresh: Difference, wanted: Tensor, found: Tensor
) -> None:
    if wanted.shape != found.shape:
        raise VerificationError(
            f"the output '{name}' has shape {tuple(wanted.shape)} in the first file and "
            f"{tuple(found.shape)} in the second one"
        )
    known.setdefault(name, fresh).add(wanted, found)


def _matched(one: Sequence[str], other: Sequence[str], *, what: str = "outputs") -> dict[str, str]:
    """Names of the first file, and those of the second one that belong to them."""
    if set(one) == set(other):
        return {name: name for name in one}
    if len(one) == len(other):
        return dict(zip(one, other, strict=True))
    raise VerificationError(
        f"the files have other {what}: {', '.join(one)} in the first, {', '.join(other)} in the "
        "second"
    )


def _shared(files: Sequence["onnx_ir.Model"]) -> list[str]:
    """Operators that have the same name and kind in both files, and a name of their own."""
    first, second = (_layers(one) for one in files)
    return [name for name, kind in first.items() if second.get(name) == kind]


def _layers(file: "onnx_ir.Model") -> dict[str, str]:
    nodes = [one for one in file.graph if one.name and one.op_type not in _NO_LAYERS]
    return {str(one.name): one.op_type for one in nodes}


def _shown(file: "onnx_ir.Model", layers: Sequence[str], copy: Path) -> OnnxModel:
    """The file with the results of layers as outputs too."""
    import onnx_ir

    nodes, constants = {one.name: one for one in list(file.graph)}, _constants(file.graph)
    for name in layers:
        show(file, _result(nodes[name], constants), name + _MARK)
    onnx_ir.save(file, copy, external_data=f"{copy.name}.data")
    return OnnxModel(copy)


def _result(node: "onnx_ir.Node", constants: Collection["onnx_ir.Value"]) -> "onnx_ir.Value":
    """What a layer gives: a product of a weight with the factor and the bias, wherever they are."""
    value = node.outputs[0]
    if node.op_type not in WEIGHTED or node.inputs[1] not in constants:
        return value
    while len(users := value.consumers()) == 1 and not value.is_graph_output():
        (user,) = users
        others = (one for one in user.inputs if one is not value)
        if user.op_type not in _AFFINE or any(one not in constants for one in others):
            break
        value = user.outputs[0]
    return value


def _constants(graph: "onnx_ir.Graph") -> set["onnx_ir.Value"]:
    """The values that follow from what is stored in the file."""
    found = {*graph.initializers.values()}
    for node in graph:
        if all(one is None or one in found for one in node.inputs):
            found.update(node.outputs)
    return found


def _drawn(file: "onnx_ir.Model") -> list[tuple[str, Any, Any]]:
    """Name, shape and type of the inputs."""
    known = file.graph.initializers
    return [
        (str(one.name), one.shape, one.dtype) for one in file.graph.inputs if one.name not in known
    ]


def _inputs(inputs: Sequence[tuple[str, Any, Any]]) -> dict[str, Tensor]:
    """One batch of random numbers; of what is no floating-point number, zeros and ones.

    Raises:
        VerificationError: A size after the first is open.
    """
    draw = torch.Generator().manual_seed(0)
    found = {}
    for name, shape, dtype in inputs:
        sizes = [one if isinstance(one, int) else None for one in shape or ()]
        if shape is None or None in sizes[1:]:
            raise VerificationError(f"the input '{name}' has open sizes: give data to compare on")
        whole = [one or 1 for one in sizes]
        if dtype is not None and dtype.is_floating_point():
            found[name] = torch.randn(whole, generator=draw)
        else:
            kind = torch.from_numpy(dtype.numpy().type([0])).dtype if dtype else torch.int64
            found[name] = torch.randint(0, 2, whole, generator=draw).to(kind)
    return found
