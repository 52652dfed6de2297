"""One compiler process for many small files: a process for each would take most of the time."""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedl_deploy.tensorrt.engine import worker
from embedl_deploy.tensorrt.engine.process import Events

_DONE = "the job is done"
_CODE = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(worker.__file__).parent)!r})
import worker
for line in sys.stdin:
    worker.main(Path(line.rstrip("\\n")))
    print({_DONE!r}, flush=True)
"""


class Server:
    """Takes the place of `process.run`; a process that crashed is started again."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(self, job: Mapping[str, Any], timeout: float) -> Events:
        """Do a job of the worker."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
            events = Events(failure=self._ask(folder, timeout))
            said = folder / "events.jsonl"
            for line in said.read_text("utf-8").split("\n")[:-1] if said.exists() else ():
                events.take(*json.loads(line))
            return events

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _ask(self, folder: Path, timeout: float) -> str:
        process = self._process = self._process or _started()
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(timeout, process.kill)
        timer.start()
        print(folder, file=process.stdin, flush=True)
        ended = all(line.rstrip("\n") != _DONE for line in process.stdout)
        timer.cancel()
        if not ended:
            return ""
        code = process.wait()
        self.close()
        return f"it crashed ({code})"


def _started() -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _CODE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
