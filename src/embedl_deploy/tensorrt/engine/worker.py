"""The process that talks to one of NVIDIA's compilers: `python worker.py FOLDER`.

It imports nothing of this library, so that it starts at once, and nothing is lost with it when the
compiler crashes. It reads `job.json` in the folder and writes what happens to `events.jsonl`, a
list to a line whose first entry says what it is:

- `version`, the compiler's;
- `parsing`, the name of the operator that is read;
- `refused`, what the parser says against the file, and the name of the operator;
- `said`, how bad it is, and a message of the compiler;
- `layers`, the text that has them;
- `done`, whether there is an engine.
"""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

Say = Callable[..., None]

_MIB = 1 << 20
_LOUD = ("WARNING", "ERROR", "INTERNAL_ERROR")
_PARSING = re.compile(r"Parsing node: (.*) \[\w+\]$", re.DOTALL)


def main(folder: Path) -> None:
    """Do the job in a folder."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    with (folder / "events.jsonl").open("a", encoding="utf-8") as file:

        def say(*event: Any) -> None:
            print(json.dumps(event), file=file, flush=True)

        work(import_module(job["module"]), job, say)


def work(trt: Any, job: Mapping[str, Any], say: Say) -> None:
    """Build the engine that a job describes.

    Args:
        trt: The compiler's module.
        job: `oldest` version, `path`, `engine`, `ranges`, `workspace`, `timing_cache`; and `gpu`,
            which is null where the compiler builds for the GPU at hand.
        say: Takes events.
    """
    say("version", str(trt.__version__))
    if is_older(str(trt.__version__), job["oldest"]):
        return
    log = _logger(trt, say)
    builder = trt.Builder(log)
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(job["path"]):
        for error in map(parser.get_error, range(parser.num_errors)):
            say("refused", error.desc(), error.node_name())
        say("done", False)
        return
    say("parsing", "")
    config = _config(trt, builder, job)
    if job["ranges"]:
        _set_shapes(builder, network, config, job["ranges"])
    plan = builder.build_serialized_network(network, config)
    if plan is not None:
        Path(job["engine"]).write_bytes(plan)
        _keep_cache(config, job["timing_cache"])
        if job["gpu"] is None:
            say("layers", _inspected(trt, log, plan))
    say("done", plan is not None)


def _logger(trt: Any, say: Say) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc] # the module is not known before
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            level = str(severity).rsplit(".", maxsplit=1)[-1]
            if level in _LOUD:
                say("said", level, message)
            elif message.startswith("Layers:"):
                say("layers", message)
            elif found := _PARSING.match(message):
                say("parsing", found[1])

    return Log()


def _config(trt: Any, builder: Any, job: Mapping[str, Any]) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if job["gpu"] is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, job["gpu"]), 0)
    if job["workspace"] is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job["workspace"] * _MIB)
    if job["timing_cache"] is not None:
        path = Path(job["timing_cache"])
        content = path.read_bytes() if path.exists() else b""
        config.set_timing_cache(config.create_timing_cache(content), ignore_mismatch=False)
    return config


def _set_shapes(
    builder: Any, network: Any, config: Any, ranges: Mapping[str, Sequence[Sequence[int]]]
) -> None:
    """Inputs of one shape alone are fixed, so that the layers have sizes; others get a profile."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    for one in inputs:
        smallest, _, largest = ranges.get(one.name, (None, None, None))
        if smallest is not None and smallest == largest:
            one.shape = tuple(smallest)
    profile = builder.create_optimization_profile()
    for name, shapes in ranges.items():
        profile.set_shape(name, *map(tuple, shapes))
    config.add_optimization_profile(profile)


def is_older(version: str, oldest: Sequence[int]) -> bool:
    """Whether a version such as 10.12.0.36 is before another."""
    numbers = [int(part) for part in version.split(".") if part.isdigit()]
    return numbers < list(oldest)


def _keep_cache(config: Any, path: str | None) -> None:
    if path is not None:
        Path(path).write_bytes(bytes(config.get_timing_cache().serialize()))


def _inspected(trt: Any, log: Any, plan: Any) -> str:
    engine = trt.Runtime(log).deserialize_cuda_engine(plan)
    if engine is None:
        return ""
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
