"""Ctrl-C ends every command without a traceback, while it is still importing what it needs too."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PRESSED = """
import sys
class Press:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Press())
sys.argv = ["causeway", "version"]
from controlplane.cli.main import main
main()
"""


@pytest.mark.parametrize("module", ["typer", "controlplane.cli.version"])
def test_during_the_imports(module: str) -> None:
    argv = [sys.executable, "-c", _PRESSED.format(module=module)]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")
