"""A file in ONNX Runtime beside a model, batch by batch.

Two floating-point programs sum in different orders, so a value next to a rounding tie may fall
to either side. One such flip changes what every later layer sees: run freely, the two drift
apart a little. So each stub is also compared by itself: the simulation continues from the
numbers that the file computed, and a difference, before rounding and after, is that of the
layers since the stub before.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import length_hint
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.utils.hooks import RemovableHandle

from embedl_deploy.batches import call_arguments, device_of, holds_arrays, moved, remedy
from embedl_deploy.default import target_for
from embedl_deploy.errors import VerificationError
from embedl_deploy.export.attention import Upstream, upstream
from embedl_deploy.export.host import HOST
from embedl_deploy.export.manifest import Manifest, reference
from embedl_deploy.export.orders import Orders, Pair, Picks, counted
from embedl_deploy.export.parity import Parity, StubParity
from embedl_deploy.export.pieces import input_names, pieces, tensors
from embedl_deploy.export.probe import Probe, Seen, load
from embedl_deploy.export.products import Products
from embedl_deploy.export.runtime import OnnxModel
from embedl_deploy.quantize import QuantStub
from embedl_deploy.quantize.calibrating.calibrate import Progress
from embedl_deploy.quantize.rounding import in_steps
from embedl_deploy.target import Target

if TYPE_CHECKING:
    import onnx_ir


class Comparison:
    """Runs batches through both and collects the differences."""

    def __init__(
        self,
        model: nn.Module,
        path: Path,
        folder: Path,
        target: Target | None = None,
        *,
        stubs: bool = False,
        free: bool = False,
    ) -> None:
        file = load(path)
        written = Manifest.read(file)
        precision = None if written is None else written.precision
        self.model = model
        self.manifest = None if free else _simulated(written, model, stubs=stubs)
        self.target = target_for(model, target)
        self.referred = precision not in {"float16", "bfloat16"}
        self.compare_stubs = stubs and self.manifest is not None
        self.products = Products(file, model if free and written is not None else nn.Identity())
        self.orders = Orders(file)
        lifted = self.compare_stubs or precision == "bfloat16"
        if as_it_is := not lifted or precision == "float16":
            self.runtime = _runnable(
                path, file, folder, shown=self.products.found or self.orders.found
            )
        self.probe = Probe(file, folder) if lifted else None
        if self.probe is not None and not as_it_is:
            self.runtime = self.probe.runtime
        self.parity = Parity(foreign=written is None, orders=self.orders.found)
        self.ranked: Counter[Any] | None = None
        self.labels: Tensor | None = None
        self.scores_at = ""
        self.picks = Picks()
        self.scores: Sequence[Pair] = ()
        self.pieces = 0
        self.inputs = input_names(model)

    def over(
        self, data: Iterable[Any], progress: Progress | None, *, labelled: bool = False
    ) -> Parity:
        """Go through data, of pairs of inputs and labels where it is labelled.

        Raises:
            VerificationError: There is none, or it does not fit.
        """
        total = length_hint(data) or None
        hooks = self.products.watch(self.model)
        try:
            for done, batch in enumerate(data, 1):
                self.add(*batch) if labelled else self.add(batch)
                if progress is not None:
                    progress(done, total)
        finally:
            for hook in hooks:
                hook.remove()
        if not self.pieces:
            raise VerificationError("there is no data to verify with, or less than one batch of it")
        self.parity.products = self.products.compared
        return self.parity

    def add(self, batch: Any, labels: Tensor | None = None) -> None:
        """Take in a batch."""
        args, kwargs = call_arguments(batch, len(self.inputs))
        if unknown := sorted(kwargs.keys() - set(self.inputs)):
            raise VerificationError(
                f"the model takes the inputs {', '.join(self.inputs)}; {unknown} were given by name"
            )
        if holds_arrays((args, kwargs)):
            raise VerificationError(f"a batch is of no use{remedy((args, kwargs))}")
        ordered = {name: kwargs[name] for name in self.inputs if name in kwargs}
        for piece, named in pieces((*args, labels), ordered, self.runtime.batch_size):
            self.labels = piece[-1]
            self._add_piece(piece[:-1], named)

    def _add_piece(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if self.probe is not None:
            args, kwargs = self.probe.as_given((args, kwargs))
        inputs = tensors((args, kwargs))
        computed = self.runtime(*inputs)
        seen = {} if self.probe is None else self.probe.pop(computed)
        self.picks = self.orders.pop(computed)
        products = self.products.pop(computed)
        self.pieces += 1
        self.parity.samples += len(inputs[0]) if inputs and inputs[0].dim() else 1
        for name, one, other in self._pairs(self._simulate(args, kwargs), computed):
            self.parity.add_output(name, one, other)
            self._judge(name, one, other)
        self.products.add(products)
        if not self.compare_stubs or self.probe is None:
            return
        if self.runtime is not self.probe.runtime:
            computed = self.probe.runtime(*inputs)
            seen = self.probe.pop(computed)
            self.picks = self.orders.pop(computed)
        hooks = self._hooks(seen)
        try:
            forced = self._simulate(args, kwargs)
        finally:
            for hook in hooks:
                hook.remove()
        for one, other in self.scores:
            self.parity.add_rounding(one, other)
        for _, one, other in self._pairs(forced, computed):
            self.parity.add_rounding(one, other)

    def _judge(self, name: str, one: Tensor, other: Tensor) -> None:
        """Whether the answers are right, at the first output that has scores of classes."""
        if self.labels is None or not self.parity.outputs[name].rows:
            return
        if self.scores_at in ("", name):
            self.scores_at = name
            self.parity.accuracy.add(self.labels.cpu().long(), one, other)

    def _simulate(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
        self._refer(args, kwargs)
        args, kwargs = moved((args, kwargs), device_of(self.model))
        if self.orders.found and self.ranked is None:
            with counted() as self.ranked, torch.no_grad():
                self.model(*args, **kwargs)
        with self.picks.followed(self.ranked or Counter()) as self.scores, torch.no_grad():
            output = self.model(*args, **kwargs)
        return [one.cpu() for one in tensors(output)]

    def _refer(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Give the model the values that a file in half precision has."""
        if self.manifest is None or self.referred:
            return
        assert isinstance(self.model, fx.GraphModule)  # noqa: S101 - checked at the start
        lowering = self.manifest.lowering(self.target)
        args, kwargs = moved((args, kwargs), HOST)
        self.model = reference(self.model, args, kwargs, self.manifest, lowering)
        self.referred = True

    def _pairs(
        self, simulated: Sequence[Tensor], computed: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Outputs that can be compared, by name."""
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
            if name not in self.orders.uncompared:
                yield name, one, other

    def _hooks(self, seen: Mapping[str, Seen]) -> list[RemovableHandle]:
        """From each stub on, the simulation sees the numbers that the file computed."""
        named = self.model.named_modules()
        stubs = {path: one for path, one in named if isinstance(one, QuantStub)}
        if stubs and not seen:
            raise VerificationError(
                f"the model has {len(stubs)} stubs and the file quantizes nothing: it was not "
                "exported from this model"
            )
        if unknown := sorted(seen.keys() - stubs.keys()):
            raise VerificationError(
                f"the file quantizes at '{unknown[0]}', where the model has no stub"
            )
        assert isinstance(self.model, fx.GraphModule)  # noqa: S101 - checked at the start
        assert self.manifest is not None  # noqa: S101 - stubs are those of our files
        before = upstream(self.model, self.manifest.lowering(self.target))
        return [
            self._follow(path, stubs[path], _as_stub(path, one, before))
            for path, one in seen.items()
        ]

    def _follow(self, path: str, stub: QuantStub, seen: Seen) -> RemovableHandle:
        parity = self.parity.stubs.setdefault(path, StubParity(path))

        def follow(stub: QuantStub, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            steps = _steps(inputs[0], stub)
            if steps.shape != seen.numbers.shape:
                raise VerificationError(
                    f"'{path}' has shape {tuple(seen.numbers.shape)} in the file and "
                    f"{tuple(steps.shape)} in the model"
                )
            before = None if seen.values is None else _steps(seen.values, stub)
            parity.add(steps.cpu(), seen.numbers, before, stub.grid)
            return (seen.numbers.to(steps) * stub.scale).to(output)

        return stub.register_forward_hook(follow)


def _simulated(written: Manifest | None, model: nn.Module, *, stubs: bool) -> Manifest | None:
    """The manifest of the file where the model can be simulated with it."""
    if written is None or isinstance(model, fx.GraphModule):
        return written
    if not stubs:
        return None
    raise VerificationError(
        f"verify_onnx takes a transformed model, not a {type(model).__name__}; with "
        "stubs=False the outputs of any model are compared"
    )


def _runnable(
    path: Path, file: "onnx_ir.Model", folder: Path, *, shown: Mapping[str, Any]
) -> OnnxModel:
    """The file as it is, or a copy where more is shown of it."""
    if not shown:
        return OnnxModel(path)
    import onnx_ir

    copy = folder / "shown.onnx"
    onnx_ir.save(file, copy, external_data=f"{copy.name}.data")
    return OnnxModel(copy)


def _as_stub(path: str, seen: Seen, before: Upstream) -> Seen:
    """What the file shows, in the layout and the size that the stub of the simulation has."""
    if path in before.transposed:
        values = None if seen.values is None else seen.values.transpose(-2, -1)
        return Seen(seen.numbers.transpose(-2, -1), values)
    if path in before.factors and seen.values is not None:
        factor = before.factors[path] or seen.values.shape[-1] ** -0.5
        return Seen(seen.numbers, seen.values / factor)
    return seen


def _steps(values: Tensor, stub: QuantStub) -> Tensor:
    """What the stub rounds: clamped multiples of its scale."""
    return in_steps(values, stub.scale.to(values.device)).clamp(stub.lowest, stub.highest)
