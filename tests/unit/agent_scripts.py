"""The agents as they are installed, with their constants pointed into a directory of the test, under each shell that may be sh."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Dict, List

import pytest

ROOT = Path(__file__).resolve().parents[2]
AGENTS = ("heartbeat-link", "replica-guard")
SHELLS: Dict[str, List[str]] = {"dash": ["dash"], "bash": ["bash"], "bash-posix": ["bash", "--posix"], "busybox": ["busybox", "sh"]}
STUB = 'import sys\nprint(sys.argv[1:])\nsys.exit(42)\n'
PYTHON_RAN = 42


def shells() -> List[object]:
    """As parameters. What is not here is skipped with that reason."""
    missing = pytest.mark.skip(reason="no such shell here")
    return [pytest.param(name, marks=[] if shutil.which(argv[0]) else [missing], id=name) for name, argv in SHELLS.items()]


class Script:
    """A copy of an agent whose Python only says that it was called, and with what."""

    def __init__(self, directory: Path, agent: str, shell: str) -> None:
        self.directory, self.agent = directory, agent
        self.path, self.body, self.metadata = directory / agent, directory / "ocf-agent", directory / "metadata.xml"
        program, *options = SHELLS[shell]
        self._argv = [shutil.which(program) or program, *options]
        self._text = (ROOT / "agents" / agent).read_text(encoding="ascii")
        self.body.write_text(STUB)
        self.metadata.write_text("<resource-agent/>\n")
        self.set(BODY=str(self.body), METADATA=str(self.metadata))

    def set(self, **constants: str) -> None:
        for name, value in constants.items():
            self._text, count = re.subn(rf"(?m)^{name}=.*$", f"{name}={value}", self._text)
            assert count == 1, f"{self.agent} has {count} lines {name}="
        self.path.write_text(self._text)

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        argv = [*self._argv, str(self.path), *words]
        variables = {"PATH": os.environ["PATH"], **environment}
        return subprocess.run(argv, env=variables, capture_output=True, text=True, timeout=60, check=False)
