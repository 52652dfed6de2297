"""What an ONNX file takes on a GPU at hand, measured by TensorRT's own tool."""

import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from embedl_deploy.errors import BuildError

_MEDIAN = re.compile(r"GPU Compute Time: [^\n]*?median = ([0-9.e+-]+) ms")
_VERSION = re.compile(r"\[TensorRT v([0-9]+)\]")
_ALWAYS_TYPED = 110_000
"""The version 11.0, as `trtexec` says it: from there on all networks are strongly typed."""


@dataclass(frozen=True)
class Latency:
    """A time that was measured.

    Attributes:
        microseconds: The median; `float` gives it too.
        measured_by: The tool, with its version where it says that.
    """

    microseconds: float
    measured_by: str

    def __float__(self) -> float:
        return self.microseconds


@dataclass(frozen=True)
class TrtexecLatency:
    """Gives the median time of an ONNX file on a GPU at hand, for `tune(cost=…)`.

    `trtexec` builds an engine, runs it with random inputs, and says the time of the GPU alone,
    without copies from and to the host. On another machine a script of your own may do so: it gets
    `--onnx=FILE` as its last argument, and prints what `trtexec` prints.

    Attributes:
        command: The tool with its options, such as `trtexec --stronglyTyped --useCudaGraph`.
        seconds: That a file may take.

    Raises:
        BuildError: The tool is not there, fails, takes too long, or says no time; or it is
            TensorRT 10 without `--stronglyTyped`, which computes in other types than the file.
    """

    command: str = "trtexec"
    seconds: float = 1800.0

    def __post_init__(self) -> None:
        try:
            words = shlex.split(self.command)
        except ValueError as error:
            raise BuildError(f"'{self.command}' is no command: {error}") from None
        if not words:
            raise BuildError("give the command that measures, such as 'trtexec --stronglyTyped'")

    def __call__(self, path: Path) -> Latency:
        """Measure a file."""
        words = [*shlex.split(self.command), f"--onnx={path}"]
        try:
            done = subprocess.run(  # noqa: S603 - the user's own command
                words,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self.seconds,
                check=False,
            )
        except OSError as error:
            raise BuildError(
                f"cannot run '{words[0]}': {error.strerror}; give the path of trtexec, such as "
                "/usr/src/tensorrt/bin/trtexec"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise BuildError(f"'{words[0]}' took more than {self.seconds:g} s") from error
        return Latency(1000 * self._median(done), self._name(done.stdout))

    def _median(self, done: "subprocess.CompletedProcess[str]") -> float:
        said = (done.stdout + done.stderr).strip().splitlines() or ["it said nothing"]
        if done.returncode:
            errors = [one for one in said if "[E]" in one] or said
            raise BuildError(f"'{self.command}' ended with {done.returncode}: {errors[0]}")
        found = _MEDIAN.search(done.stdout)
        if found is None:
            raise BuildError(f"'{self.command}' says no 'GPU Compute Time' with a median")
        return float(found[1])

    def _name(self, output: str) -> str:
        found = _VERSION.search(output)
        if found is None:
            return shlex.split(self.command)[0]
        if int(found[1]) < _ALWAYS_TYPED and "--stronglyTyped" not in self.command + output:
            raise BuildError(
                f"'{self.command}' is of TensorRT v{found[1]}, which takes the types of the file "
                "only with --stronglyTyped"
            )
        return f"trtexec of TensorRT v{found[1]}"
