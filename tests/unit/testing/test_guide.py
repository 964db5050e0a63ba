"""The guide's pipeline and its tests run as they stand in docs/guides/testing.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import lakelet

SOURCES = Path(lakelet.__file__).parents[1]
GUIDE = SOURCES.parent / "docs" / "guides" / "testing.md"


def test_the_code_of_the_guide_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python title=(\S+)\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    for name, code in blocks:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(code)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-W", "error", "-p", "lakelet.testing.plugin", "tests"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(SOURCES), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    ran = set(re.findall(r"::(test_\w+)", result.stdout))
    assert ran == set(re.findall(r"^def (test_\w+)", GUIDE.read_text(), re.MULTILINE))
