"""Bad input: what stands in the way of a run: another run, a full disk, a folder that cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from tests.behaviour.bad_input import Project

HOLD_THE_LOCK = """
import sys
from pathlib import Path
from lakelet.execution.lock import pipeline_lock

with pipeline_lock(Path(sys.argv[1]), pipeline="shop"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "shop")


def test_a_second_process_on_the_same_pipeline(project: Project) -> None:
    project.pipeline("")
    command = [sys.executable, "-c", HOLD_THE_LOCK, str(project.root / "store" / "_lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin and other.stdout
        assert other.stdout.readline() == "held\n"
        project.refuses("PIPELINE_LOCKED", f"process {other.pid}", place=None, hint="wait for it")
        other.stdin.close()
        other.wait(30)
    assert project.run().exit_code == 0
    assert project.tables() == {"orders": 3}


def test_a_storage_folder_that_cannot_be_written(project: Project) -> None:
    project.pipeline("")
    project.write("occupied", "a file where the storage folder should be")
    outcome = project.run("run", "--storage", "occupied")
    assert outcome.exit_code == 1
    project.check(outcome, "STORAGE_NOT_WRITABLE", "occupied", place=None, hint="--storage")


def test_the_command_itself_ends_with_the_error_and_no_traceback(project: Project) -> None:
    project.pipeline("@dp.table\ndef totals():\n    return spark.readStream.table('ordres')  # here\n")
    command = [sys.executable, "-m", "lakelet.cli", "run", "--spec", str(project.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=project.root.parent)
    assert done.returncode == 2
    assert (
        f"error[TABLE_OR_VIEW_NOT_FOUND]: there is no dataset or table `ordres`\n  --> {project.place()}" in done.stderr
    )
    assert "Traceback" not in done.stderr + done.stdout


@pytest.fixture
def small_disk(project: Project) -> Iterator[Project]:
    """A project whose storage folder is a disk of 600 kB."""
    if os.geteuid() != 0:
        print("left out: a full disk needs root, to mount a small one")  # noqa: T201
        pytest.skip("a full disk needs root, to mount a small one")
    folder = project.root / "store"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        print(f"left out: a full disk: {mounted.stderr}")  # noqa: T201
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.strip()}")
    try:
        yield project
    finally:
        subprocess.run(["umount", str(folder)], check=False)


def test_a_full_disk_loses_nothing_and_the_next_run_goes_on(small_disk: Project) -> None:
    project = small_disk
    project.pipeline("@dp.table\ndef copy():\n    return spark.readStream.table('orders')\n")
    assert project.run().exit_code == 0
    count = 20_000
    project.land(
        pa.table(
            {
                "order_id": pa.array(range(count), pa.int32()),
                "amount": pa.array([1.5] * count),
                "customer": pa.array([os.urandom(20).hex() for _ in range(count)]),
            }
        )
    )
    outcome = project.run()
    assert outcome.exit_code == 1, outcome.stderr
    project.check(outcome, "DISK_FULL", "no space left", place="transformations/shop.py:5", hint="free some space")
    assert project.tables() == {"orders": 3, "copy": 3}
    command = ["mount", "-o", "remount,size=200m", str(project.root / "store")]
    subprocess.run(command, check=True)
    assert project.run().exit_code == 0
    assert project.tables() == {"orders": count + 3, "copy": count + 3}
