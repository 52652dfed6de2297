"""The part that talks to TensorRT: its Python API of 10.12 and later, and 11."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from embedl_deploy.errors import BuildError
from embedl_deploy.tensorrt.engine.ranges import ShapeRange
from embedl_deploy.tensorrt.version import Version

_OLDEST = (10, 12)
_MIB = 1 << 20


def find_tensorrt() -> Any:
    """The module; None where it is not installed.

    Raises:
        BuildError: It is there, and its libraries are not.
    """
    try:
        return import_module("tensorrt")
    except ImportError:
        return None
    except OSError as error:
        raise BuildError(
            f"TensorRT is installed and does not load: {error}; install it again"
        ) from None


def version_of(trt: Any) -> str:
    """The version of the module, such as 10.13.

    Raises:
        BuildError: It is too old to be strongly typed without surprises.
    """
    major, minor = (int(one) for one in str(trt.__version__).split(".")[:2])
    if (major, minor) < _OLDEST:
        raise BuildError(
            f"TensorRT {trt.__version__} is installed; 10.12 or newer is needed: "
            "pip install --upgrade tensorrt"
        )
    return str(Version.parse(f"{major}.{minor}"))


def build_plan(
    trt: Any,
    path: Path,
    ranges: Mapping[str, ShapeRange],
    workspace: int | None,
    timing_cache: Path | None,
) -> tuple[bytes, str]:
    """The engine's bytes, and what its inspector says of its layers.

    Raises:
        BuildError: TensorRT does not take the file, or builds nothing.
    """
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    flag = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flag)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        said = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise BuildError(f"TensorRT does not take '{path}': {said}; embedl-deploy check says more")
    config = _config(trt, builder, ranges, workspace)
    if timing_cache is not None:
        _use_cache(config, timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError(f"TensorRT built no engine of '{path}'; what it wrote to stderr says why")
    if timing_cache is not None:
        timing_cache.write_bytes(bytes(config.get_timing_cache().serialize()))
    return bytes(plan), _inspected(trt, logger, plan)


def _config(trt: Any, builder: Any, ranges: Mapping[str, ShapeRange], workspace: int | None) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace * _MIB)
    if ranges:
        profile = builder.create_optimization_profile()
        for name, one in ranges.items():
            profile.set_shape(name, one.smallest, one.best, one.largest)
        config.add_optimization_profile(profile)
    return config


def _use_cache(config: Any, path: Path) -> None:
    content = path.read_bytes() if path.exists() else b""
    config.set_timing_cache(config.create_timing_cache(content), ignore_mismatch=False)


def _inspected(trt: Any, logger: Any, plan: Any) -> str:
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        raise BuildError("TensorRT can not read the engine that it built")
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
