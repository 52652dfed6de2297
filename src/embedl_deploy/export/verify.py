"""Does the file compute what was simulated? ONNX Runtime answers.

Two floating-point programs sum in different orders, so a value next to a rounding tie may fall
to either side. One such flip changes what every later layer sees: run freely, the two drift
apart a little. So each stub is also compared by itself: the simulation goes on from the
integers that the file computed, and a difference is that of the layers since the stub before.
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree
from torch.utils.hooks import RemovableHandle

from embedl_deploy.errors import VerificationError
from embedl_deploy.export.parity import Parity, StubParity
from embedl_deploy.export.runtime import OnnxModel
from embedl_deploy.quantize import QuantStub
from embedl_deploy.quantize.calibrate import Progress, call_arguments

_MARK = "/integers"
"""Ends the names of the outputs that are added to see a stub's integers."""


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
        VerificationError: The file can not be run, has other outputs than the model, or there
            is no data.
        MissingExtraError: ONNX Runtime is not installed.
    """
    total = len(data) if isinstance(data, Sized) else None
    with _runtime(Path(path), stubs=stubs) as runtime, _eval(model):
        comparison = _Comparison(model, runtime)
        for done, batch in enumerate(data, 1):
            comparison.add(batch)
            if progress is not None:
                progress(done, total)
    if not comparison.parity.values:
        raise VerificationError("there is no data to verify with, or less than one batch of it")
    return comparison.parity


class _Comparison:
    """Runs batches through both and collects the differences."""

    def __init__(self, model: fx.GraphModule, runtime: OnnxModel) -> None:
        self.model = model
        self.runtime = runtime
        self.parity = Parity()
        self.inputs = sum(node.op == "placeholder" for node in model.graph.nodes)
        named = model.named_modules()
        self.stubs = {path: one for path, one in named if isinstance(one, QuantStub)}

    def add(self, batch: Any) -> None:
        args, kwargs = call_arguments(batch, self.inputs)
        for piece, named in _pieces(args, kwargs, self.runtime.batch_size):
            computed = self.runtime(*piece, **named)
            marked = [name for name in computed if name.endswith(_MARK)]
            integers = {name.removesuffix(_MARK): computed.pop(name) for name in marked}
            with torch.no_grad():
                self._compare_outputs(self.model(*piece, **named), computed)
                self._compare_stubs(piece, named, integers)

    def _compare_outputs(self, simulated: Any, computed: Mapping[str, Tensor]) -> None:
        tensors = [one for one in pytree.tree_leaves(simulated) if isinstance(one, Tensor)]
        if len(tensors) != len(computed):
            raise VerificationError(
                f"the model has {len(tensors)} outputs and the file {len(computed)}: it was not "
                "exported from this model"
            )
        for one, (name, other) in zip(tensors, computed.items(), strict=True):
            if one.shape != other.shape:
                raise VerificationError(
                    f"output '{name}' has shape {tuple(other.shape)} in the file and "
                    f"{tuple(one.shape)} in the model"
                )
            self.parity.add(one, other)

    def _compare_stubs(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], integers: Mapping[str, Tensor]
    ) -> None:
        if not integers:
            return
        hooks = [self._follow(path, computed) for path, computed in integers.items()]
        try:
            self.model(*args, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()

    def _follow(self, path: str, computed: Tensor) -> RemovableHandle:
        """From this stub on, the simulation sees what the file computed."""
        stub = self.stubs.get(path)
        if stub is None:
            raise VerificationError(f"the file quantizes at '{path}', where the model has no stub")
        parity = self.parity.stubs.setdefault(path, StubParity(path))

        def follow(stub: QuantStub, _: object, output: Tensor) -> Tensor:
            parity.add((output / stub.scale).round(), computed)
            return computed.to(output) * stub.scale.to(output)

        return stub.register_forward_hook(follow)


@contextmanager
def _runtime(path: Path, *, stubs: bool) -> Iterator[OnnxModel]:
    """The file as a function; with `stubs`, a copy of it that gives their integers too."""
    if not path.is_file():
        raise VerificationError(f"there is no file '{path}'")
    if not stubs:
        yield OnnxModel(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "with_integers.onnx"
        _write_with_integers(path, copy)
        yield OnnxModel(copy)


def _write_with_integers(path: Path, copy: Path) -> None:
    import onnx_ir

    model = onnx_ir.load(path)
    for node in model.graph:
        if node.op_type == "QuantizeLinear" and node.name:
            output = node.outputs[0]
            output.name = node.name.removesuffix("/QuantizeLinear") + _MARK
            output.dtype = onnx_ir.DataType.INT8
            model.graph.outputs.append(output)
    onnx_ir.save(model, copy, external_data=f"{copy.name}.data")


def _pieces(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], size: int | None
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """A batch in pieces of the size that the file fixes; whole where it fixes none."""
    tree = (args, dict(kwargs))
    tensors = [one for one in pytree.tree_leaves(tree) if isinstance(one, Tensor)]
    if size is None or not tensors or tensors[0].dim() == 0:
        yield tree
        return
    for start in range(0, tensors[0].shape[0] - size + 1, size):
        yield pytree.tree_map_only(Tensor, itemgetter(slice(start, start + size)), tree)


@contextmanager
def _eval(model: fx.GraphModule) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training
