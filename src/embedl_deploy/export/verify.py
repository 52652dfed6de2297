"""Does the file compute what was simulated? ONNX Runtime answers.

Two floating-point programs sum in different orders, so a value next to a rounding tie may fall
to either side. One such flip changes what every later layer sees: run freely, the two drift
apart a little. So each stub is also compared by itself: the simulation goes on from the
integers that the file computed, and a difference, before rounding and after, is that of the
layers since the stub before.
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from operator import length_hint
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree
from torch.utils.hooks import RemovableHandle

from embedl_deploy.errors import VerificationError
from embedl_deploy.export.parity import Parity, StubParity
from embedl_deploy.export.runtime import OnnxModel, require
from embedl_deploy.quantize import QuantStub
from embedl_deploy.quantize.calibrate import (
    Progress,
    call_arguments,
    check_batches,
    device_of,
    first_line,
    moved,
)
from embedl_deploy.quantize.rounding import in_steps

_INTEGERS, _VALUES = "/integers", "/values"
"""End the names of the outputs that are added to see what a stub rounds, and to what."""


def verify_onnx(
    path: str | Path,
    model: fx.GraphModule,
    data: Iterable[Any],
    *,
    stubs: bool = True,
    progress: Progress | None = None,
) -> Parity:
    """Compare an exported file, run by ONNX Runtime, with the simulated model.

    Args:
        path: The file that `export_onnx` wrote of `model`.
        model: The simulated model; left as it is.
        data: Batches as `calibrate` takes them. Where the file fixes the batch size, batches
            are cut to it, and a last piece that is too small is left out.
        stubs: Whether to compare the integers of every stub as well.
        progress: Called after every batch.

    Raises:
        VerificationError: The file can not be run, has other stubs or outputs than the model,
            or there is no data that fits it.
        CalibrationError: The data are no batches.
        QuantizationError: The model is not calibrated.
        MissingExtraError: ONNX Runtime is not installed.
    """
    if not isinstance(model, fx.GraphModule):
        raise VerificationError(
            f"verify_onnx takes a transformed model, not a {type(model).__name__}"
        )
    total = length_hint(data) or None
    check_batches(data)
    with _runtime(Path(path), stubs=stubs) as runtime, _eval(model):
        comparison = _Comparison(model, runtime, stubs=stubs)
        for done, batch in enumerate(data, 1):
            comparison.add(batch)
            if progress is not None:
                progress(done, total)
    if not comparison.parity.values:
        raise VerificationError("there is no data to verify with, or less than one batch of it")
    return comparison.parity


class _Comparison:
    """Runs batches through both and collects the differences."""

    def __init__(self, model: fx.GraphModule, runtime: OnnxModel, *, stubs: bool) -> None:
        self.model = model
        self.runtime = runtime
        self.parity = Parity()
        self.inputs = [str(node.target) for node in model.graph.nodes if node.op == "placeholder"]
        self.device = device_of(model)
        named = model.named_modules()
        self.stubs = {path: one for path, one in named if isinstance(one, QuantStub)}
        self.compare_stubs = stubs

    def add(self, batch: Any) -> None:
        args, kwargs = call_arguments(batch, len(self.inputs))
        if unknown := sorted(kwargs.keys() - set(self.inputs)):
            raise VerificationError(
                f"the model takes the inputs {', '.join(self.inputs)}; {unknown} were given by name"
            )
        ordered = {name: kwargs[name] for name in self.inputs if name in kwargs}
        for piece, named in _pieces(args, ordered, self.runtime.batch_size):
            computed = self.runtime(*_tensors((piece, named)))
            integers, values = (_pop(computed, mark) for mark in (_INTEGERS, _VALUES))
            for one, other in self._pairs(self._simulate(piece, named), computed):
                self.parity.add(one, other)
            if self.compare_stubs:
                hooks = self._hooks(integers, values)
                try:
                    forced = self._simulate(piece, named)
                finally:
                    for hook in hooks:
                        hook.remove()
                for one, other in self._pairs(forced, computed):
                    self.parity.add_rounding(one, other)

    def _simulate(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
        with torch.no_grad():
            output = self.model(*moved(args, self.device), **moved(kwargs, self.device))
        return [one.cpu() for one in _tensors(output)]

    def _pairs(
        self, simulated: Sequence[Tensor], computed: Mapping[str, Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        if len(simulated) != len(computed):
            raise VerificationError(
                f"the model has {len(simulated)} outputs and the file {len(computed)}: it was not "
                "exported from this model"
            )
        for one, (name, other) in zip(simulated, computed.items(), strict=True):
            if one.shape != other.shape:
                raise VerificationError(
                    f"output '{name}' has shape {tuple(other.shape)} in the file and "
                    f"{tuple(one.shape)} in the model"
                )
            yield one, other

    def _hooks(
        self, integers: Mapping[str, Tensor], values: Mapping[str, Tensor]
    ) -> list[RemovableHandle]:
        """From each stub on, the simulation sees the integers that the file computed."""
        if self.stubs and not integers:
            raise VerificationError(
                f"the model has {len(self.stubs)} stubs and the file quantizes nothing: it was not "
                "exported from this model"
            )
        if unknown := sorted(integers.keys() - self.stubs.keys()):
            raise VerificationError(
                f"the file quantizes at '{unknown[0]}', where the model has no stub"
            )
        return [self._follow(path, one, values.get(path)) for path, one in integers.items()]

    def _follow(self, path: str, integers: Tensor, values: Tensor | None) -> RemovableHandle:
        parity = self.parity.stubs.setdefault(path, StubParity(path))

        def follow(stub: QuantStub, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            steps = _steps(inputs[0], stub)
            if steps.shape != integers.shape:
                raise VerificationError(
                    f"'{path}' has shape {tuple(integers.shape)} in the file and "
                    f"{tuple(steps.shape)} in the model"
                )
            parity.add(steps.cpu(), integers, None if values is None else _steps(values, stub))
            return (integers.to(steps) * stub.scale).to(output)

        return self.stubs[path].register_forward_hook(follow)


def _steps(values: Tensor, stub: QuantStub) -> Tensor:
    """What the stub rounds: clamped multiples of its scale."""
    return in_steps(values, stub.scale.to(values.device)).clamp(stub.lowest, stub.highest)


def _pop(outputs: dict[str, Tensor], mark: str) -> dict[str, Tensor]:
    """Take out the outputs whose names end with the mark; by stub."""
    names = [name for name in outputs if name.endswith(mark)]
    return {name.removesuffix(mark): outputs.pop(name) for name in names}


def _tensors(tree: Any) -> list[Tensor]:
    return [one for one in pytree.tree_leaves(tree) if isinstance(one, Tensor)]


@contextmanager
def _runtime(path: Path, *, stubs: bool) -> Iterator[OnnxModel]:
    """The file as a function; with `stubs`, of a copy that shows what they do."""
    if not path.is_file():
        raise VerificationError(f"there is no file '{path}'")
    if not stubs:
        yield OnnxModel(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "with_stubs.onnx"
        _write_with_stubs(path, copy)
        yield OnnxModel(copy)


def _write_with_stubs(path: Path, copy: Path) -> None:
    require("onnx_ir", "verification")
    import onnx_ir

    try:
        model = onnx_ir.load(path)
    except Exception as error:  # protobuf raises what it likes
        raise VerificationError(f"'{path}' is not an ONNX file: {first_line(error)}") from error
    ends = {id(value) for value in (*model.graph.inputs, *model.graph.outputs)}
    for node in model.graph:
        if node.op_type != "QuantizeLinear" or not node.name:
            continue
        stub, values = node.name.removesuffix("/QuantizeLinear"), node.inputs[0]
        (integers,) = node.outputs
        integers.name, integers.dtype = stub + _INTEGERS, onnx_ir.DataType.INT8
        model.graph.outputs.append(integers)
        if values is not None and id(values) not in ends:
            values.name = stub + _VALUES
            model.graph.outputs.append(values)
    onnx_ir.save(model, copy, external_data=f"{copy.name}.data")


def _pieces(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], size: int | None
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """A batch in pieces of the size that the file fixes; whole where it fixes none."""
    tree = (args, dict(kwargs))
    rows = next((one.shape[0] for one in _tensors(tree)[:1] if one.dim()), None)
    if size is None or rows is None or rows == size:
        yield tree
        return
    for start in range(0, rows - size + 1, size):
        yield pytree.tree_map_only(Tensor, partial(_cut, rows, start, size), tree)


def _cut(rows: int, start: int, size: int, tensor: Tensor) -> Tensor:
    """A piece of what goes with the batch; a tensor of another size is for all of it."""
    along = tensor.dim() > 0 and tensor.shape[0] == rows
    return tensor[start : start + size] if along else tensor


@contextmanager
def _eval(model: fx.GraphModule) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training
