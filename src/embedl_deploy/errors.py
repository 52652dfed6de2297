"""The library's errors: one family, so that one `except` catches all of them.

A message says what was wrong, where, and what to do.
"""

__all__ = [
    "BuildError",
    "CalibrationError",
    "CaptureError",
    "CheckError",
    "DeployError",
    "DeviceError",
    "ExportError",
    "LoadError",
    "MissingExtraError",
    "PatternError",
    "PlanError",
    "QuantizationError",
    "VerificationError",
]


class DeployError(Exception):
    """Base of every error that this library raises on purpose."""


class DeviceError(DeployError):
    """A model is spread over several devices, where all its tensors have to be on one."""


class CaptureError(DeployError):
    """A model could not be turned into a canonical graph."""


class PatternError(DeployError):
    """A pattern is written in a way that cannot work."""


class PlanError(DeployError):
    """A transformation plan cannot be found or applied."""


class QuantizationError(DeployError):
    """A quantized model cannot be built or used as asked."""


class CalibrationError(QuantizationError):
    """Calibration data is missing, unusable, or did not reach every stub."""


class ExportError(DeployError):
    """A model could not be written as ONNX."""


class BuildError(DeployError):
    """An engine could not be built, or what is said of one not read."""


class CheckError(DeployError):
    """An ONNX file could not be read or judged."""


class VerificationError(DeployError):
    """An exported file could not be run, or does not compute what was simulated."""


class LoadError(DeployError):
    """A model, its weights or its data could not be loaded."""


class MissingExtraError(DeployError, ImportError):
    """An optional package is needed that is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed: "
            f"pip install 'embedl_deploy[{extra}]'"
        )
