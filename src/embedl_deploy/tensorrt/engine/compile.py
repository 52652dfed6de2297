"""Compiling an ONNX file."""

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from embedl_deploy.errors import BuildError
from embedl_deploy.onnx_model import OnnxFile
from embedl_deploy.tensorrt.engine import process
from embedl_deploy.tensorrt.engine.compilation import Compilation
from embedl_deploy.tensorrt.engine.compilers import Compiler, choose
from embedl_deploy.tensorrt.engine.gpus import find_gpu
from embedl_deploy.tensorrt.engine.layers import Layer, parse_layers
from embedl_deploy.tensorrt.engine.log import parse_log
from embedl_deploy.tensorrt.engine.process import Events
from embedl_deploy.tensorrt.engine.products import (
    attentions_of,
    counted_layers,
    products_of,
    uncounted_of,
)
from embedl_deploy.tensorrt.engine.ranges import ShapeRange, settled
from embedl_deploy.tensorrt.engine.remarks import remarks_of
from embedl_deploy.tensorrt.engine.trtexec import layers_file, trtexec_command
from embedl_deploy.tensorrt.engine.worker import is_older

_TIMEOUT = 600.0


def compile_onnx(
    path: str | Path | OnnxFile,
    gpu: str | None = None,
    *,
    output: str | Path | None = None,
    compiler: str = "auto",
    ranges: Mapping[str, ShapeRange] | None = None,
    workspace: int | None = None,
    timing_cache: str | Path | None = None,
    timeout: float = _TIMEOUT,
) -> Compilation:
    """Compile a file with TensorRT, or with TensorRT for RTX, which needs no GPU.

    The compiler runs in a process of its own. What stops it, a crash too, is in the `errors` of
    what comes back.

    Args:
        path: The ONNX file, of any tool, or one that is open.
        gpu: A GPU, such as `l4` or `rtx4090`, or a compute capability, such as `sm86`; with
            TensorRT the one at hand, with TensorRT for RTX an RTX 4090 by default.
        output: The engine to write, by default none. TensorRT's report on its layers is written
            beside it, under its name and `.layers.json`.
        compiler: `tensorrt`, `rtx`, or `auto`: TensorRT where it is installed and no GPU is named.
        ranges: Of inputs whose sizes are open, by name; of the only input under an empty name.
            With one shape alone, bytes and estimates are known.
        workspace: MiB that kernels may use beside their tensors; all of the GPU's by default.
        timing_cache: A file that remembers what was measured; it is made where it is not there.
        timeout: Seconds after which the compiler is stopped.

    Raises:
        BuildError: The compiler is not installed, which says how to get one; it does not build for
            this GPU, or is too old; its report cannot be read; a range is missing; or the engine
            cannot be written.
        CheckError: The file cannot be read.
    """
    opened, target = OnnxFile.open(path), None if output is None else Path(output)
    file, wanted = opened.path, settled(opened.model.graph, ranges or {})
    line = trtexec_command(
        file,
        target or file.with_suffix(".plan"),
        ranges=wanted,
        workspace=workspace,
        timing_cache=timing_cache,
    )
    chosen, card = choose(compiler, gpu, line)
    view = opened.with_shapes({name: one.best for name, one in wanted.items()}).view
    with _drafts(target) as folder:
        engine = folder / (target.name if target else "engine")
        job = {
            "module": chosen.module,
            "oldest": chosen.oldest,
            "path": str(file),
            "engine": str(engine),
            "gpu": None if card is None else find_gpu(card)[0],
            "ranges": {name: (one.smallest, one.best, one.largest) for name, one in wanted.items()},
            "workspace": workspace,
            "timing_cache": None if timing_cache is None else str(timing_cache),
        }
        start = time.perf_counter()
        events = process.run(job, timeout)
        seconds = time.perf_counter() - start
        _hold_started(chosen, events)
        size = engine.stat().st_size if events.done else 0
        layers = _layers(chosen, events) if events.done else ()
        if events.done and not chosen.capabilities:
            layers_file(engine).write_text(events.layers, encoding="utf-8")
    products = products_of(view, layers) if size else ()
    uncounted = uncounted_of(view) if size else ()
    return Compilation(
        path=file,
        compiler=f"{chosen.name} {events.version}",
        gpu=card or "",
        engine=target if size else None,
        engine_bytes=size,
        seconds=seconds,
        remarks=remarks_of(events, (node.label for node in view.graph)),
        layers=counted_layers(layers, products, uncounted),
        products=products,
        uncounted=uncounted,
        attentions=attentions_of(view, layers) if size else (),
    )


@contextmanager
def _drafts(target: Path | None) -> Iterator[Path]:
    """A folder whose files are moved beside the target when all went well.

    Raises:
        BuildError: They cannot be written there.
    """
    where = None if target is None else target.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".engine-", dir=where) as name:
            yield Path(name)
            if where is not None:
                for file in Path(name).iterdir():
                    file.replace(where / file.name)
    except OSError as error:
        raise BuildError(f"cannot write '{target}': {error.strerror or error}") from None


def _hold_started(compiler: Compiler, events: Events) -> None:
    """Check that the compiler loads, and is new enough.

    Raises:
        BuildError: It is not.
    """
    if not events.version:
        raise BuildError(
            f"{compiler.name} is installed and does not load: {events.failure}; install it again: "
            f"{compiler.how_to_get}"
        )
    if is_older(events.version, compiler.oldest):
        oldest = ".".join(map(str, compiler.oldest))
        raise BuildError(
            f"{compiler.name} {events.version} is installed; {oldest} or newer is needed: "
            f"{compiler.how_to_get}"
        )


def _layers(compiler: Compiler, events: Events) -> tuple[Layer, ...]:
    if compiler.capabilities:
        return parse_log(events.layers, events.version)
    if not events.layers:
        raise BuildError(f"{compiler.name} cannot read the engine that it built")
    return parse_layers(events.layers)
