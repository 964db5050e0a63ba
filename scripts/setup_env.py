"""Makes the project's virtual environment from the lock file, with nothing but a Python and its package index.

Run by the Makefile: `python3 scripts/setup_env.py .venv`.
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
STUB_LOCK = ROOT / "requirements-stub.lock"


def main() -> int:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".venv").resolve()
    version = ".".join(map(str, sys.version_info[:2]))
    if sys.version_info < (3, 11):  # noqa: UP036 - this is the file that says so
        return fail(
            f"Python 3.11 or newer is needed, this is {version}", "run `make PYTHON=python3.12 …` with a newer one"
        )
    stamp = folder / ".ready"
    wanted = hashlib.sha256(
        LOCK.read_bytes() + STUB_LOCK.read_bytes() + (ROOT / "pyproject.toml").read_bytes()
    ).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return 0
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        return fail(
            f"this Python has no `ensurepip`, so it cannot make a virtual environment ({sys.executable})",
            f"on Debian and Ubuntu: apt-get install python{version}-venv",
        )
    print(f"setting up {folder.name} with Python {version} (once) ...", flush=True)  # noqa: T201
    if folder.exists() and not stamp.exists():
        shutil.rmtree(folder)
    steps = [
        [sys.executable, "-m", "venv", str(folder)],
        [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--require-hashes",
         "-r", str(LOCK)],
        [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps",
         "--no-build-isolation", "-e", str(ROOT)],
        [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--require-hashes",
         "--no-deps", "--upgrade", "--target", str(folder / "stubs"), "-r", str(STUB_LOCK)],
    ]  # fmt: skip
    for step in steps:
        done = subprocess.run(step, check=False)
        if done.returncode:
            return fail(
                f"`{' '.join(step)}` failed with exit code {done.returncode}",
                "read its output above, and run make again",
            )
    stamp.write_text(wanted)
    return 0


def fail(what: str, hint: str) -> int:
    print(f"error: {what}\nhint: {hint}", file=sys.stderr)  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main())
