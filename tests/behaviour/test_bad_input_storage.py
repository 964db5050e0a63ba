"""Bad input: a disk that is full, cannot be written, or denies it: what, where and how it is mended, and no row is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from tests.behaviour.bad_input import Outcome, Project

EVERYTHING = """
@dp.table
def firsts():
    return spark.readStream.table("orders").dropDuplicates(["order_id"])

dp.create_streaming_table("latest")
dp.create_auto_cdc_flow(
    target="latest", source="orders", keys=["customer"], sequence_by="order_id", stored_as_scd_type=2)

@dp.table
def lines():
    return spark.readStream.format("json").schema("id LONG, text STRING").load("incoming")

@dp.materialized_view
def totals():
    return spark.read.table("orders").groupBy("customer").agg(F.count("*").alias("n"), F.sum("amount").alias("amount"))

dp.create_sink("outbox", "delta", {"path": "store/outbox"})

@dp.append_flow(target="outbox")
def to_outbox():
    return spark.readStream.table("orders")

dp.create_sink("files", "json", {"path": "store/files"})

@dp.append_flow(target="files")
def to_files():
    return spark.readStream.table("orders")
"""
STORED = ("orders", "firsts", "latest", "lines", "totals", "outbox", "files")
NAMED = {"DISK_FULL", "STORAGE_NOT_WRITABLE", "CHECKPOINT_NOT_WRITABLE", "SINK_NOT_WRITABLE", "EVENT_LOG_NOT_WRITABLE"}
"""What an error about the disk may be called; never an internal one."""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path / "shop")
    (project.root / "incoming").mkdir()
    land(project, 0, 30)
    return project


def land(project: Project, start: int, count: int) -> None:
    """Land orders of many customers, and as many lines."""
    numbers = range(start, start + count)
    project.land(
        pa.table(
            {
                "order_id": pa.array([100 + number for number in numbers], pa.int32()),
                "amount": pa.array([number / 2 for number in numbers], pa.float64()),
                "customer": pa.array(
                    [f"{number % 1000:04}" + os.urandom(8).hex() * (number % 3) for number in numbers]
                ),
            }
        )
    )
    text = "".join(json.dumps({"id": number, "text": "x" * 20}) + "\n" for number in numbers)
    (project.root / "incoming" / f"{start}.json").write_text(text)


def differences(project: Project) -> list[str]:
    """Return which tables and sinks have not exactly the rows that follow from what has landed."""
    tables = project.root / "store" / "tables" / "spark_catalog" / "default"
    database = duckdb.connect()
    database.register("landed", DeltaTable(str(project.root / "landing" / "orders")).to_pyarrow_table())
    for name in ("orders", "firsts", "latest", "lines", "totals"):
        database.register(f"stored_{name}", DeltaTable(str(tables / name)).to_pyarrow_table())
    database.register("stored_outbox", DeltaTable(str(project.root / "store" / "outbox")).to_pyarrow_table())
    database.execute(f"CREATE VIEW stored_files AS FROM read_json('{project.root}/store/files/*.json')")
    expected = {
        "orders": "FROM landed",
        "firsts": "FROM landed",  # each number lands once
        "latest": "SELECT customer, amount, order_id, order_id AS __START_AT, lead(order_id) OVER "
        "(PARTITION BY customer ORDER BY order_id) AS __END_AT FROM landed",
        "lines": f"FROM read_json('{project.root}/incoming/*.json')",
        "totals": "SELECT customer, count(*) AS n, sum(amount) AS amount FROM landed GROUP BY customer",
        "outbox": "FROM landed",
        "files": "SELECT customer, amount, order_id FROM landed",
    }
    found = []
    for name, query in expected.items():
        columns = ", ".join(
            sorted(f'"{column}"' for column, *_ in database.execute(f"DESCRIBE stored_{name}").fetchall())
        )
        for one, other in ((f"({query})", f"stored_{name}"), (f"stored_{name}", f"({query})")):
            sql = f"SELECT count(*) FROM (SELECT {columns} FROM {one} EXCEPT ALL SELECT {columns} FROM {other})"
            ((count,),) = database.execute(sql).fetchall()
            if count:
                found.append(f"{name}: {count} rows are in {one} and not in {other}")
    return found


def check_named(outcome: Outcome, *places: str) -> None:
    """Check that every error says what, where and how, and nothing of our insides."""
    assert outcome.exit_code == 1, outcome.stderr
    assert outcome.errors and set(outcome.errors) <= NAMED, outcome.stderr
    assert "Traceback" not in outcome.stderr + outcome.stdout
    for block in outcome.errors.values():
        assert "\nhint: " in block and any(place in block for place in places), block


# -- a full disk --------------------------------------------------------------------------------------------------


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """Let a folder be a disk of its own."""
    if os.geteuid() != 0:
        pytest.skip("a disk of its own needs root")
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a small disk: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


@pytest.mark.timeout(600)
def test_a_disk_that_is_full_at_ever_later_moments_is_named_and_loses_nothing(project: Project) -> None:
    """Each run has a little more space than the one before: one dies at the first file, the next one further on."""
    store = project.root / "store"
    with mounted(store, "size=20m"):
        project.pipeline(EVERYTHING)
        assert project.run().exit_code == 0
        assert differences(project) == []
        land(project, 30, 3000)
        conditions: set[str] = set()
        runs = 0
        while (outcome := with_free_space(project, runs * 80 * 1024)).exit_code:
            check_named(outcome, str(store), "transformations/shop.py")
            conditions |= set(outcome.errors)
            runs += 1
            assert runs < 40, conditions
        assert runs >= 5 and "DISK_FULL" in conditions, (runs, conditions)
        assert differences(project) == []
        remount(store, "size=200m")
        land(project, 5000, 10)
        assert project.run().exit_code == 0
        assert differences(project) == []


def with_free_space(project: Project, size: int) -> Outcome:
    store = project.root / "store"
    remount(store, f"size={(shutil.disk_usage(store).used + size) // 1024}k")
    return project.run()


# -- a disk that cannot be written --------------------------------------------------------------------------------


def test_a_disk_that_was_mounted_read_only_is_named_and_loses_nothing(project: Project) -> None:
    store = project.root / "store"
    with mounted(store, "size=100m"):
        project.pipeline(EVERYTHING)
        assert project.run().exit_code == 0
        land(project, 30, 100)
        remount(store, "ro")
        outcome = project.run()
        check_named(outcome, str(store))
        assert "Read-only file system" in outcome.stderr
        remount(store, "rw")
        assert project.run().exit_code == 0
        assert differences(project) == []


# -- folders that deny it -----------------------------------------------------------------------------------------


def as_a_user(project: Project) -> Outcome:
    """Run the command where permissions count: of root, without what lets it pass them over."""
    command = [sys.executable, "-m", "lakelet.cli", "run"]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("permissions do not count for root, and there is no `setpriv`")
        rights = "-dac_override,-dac_read_search"
        command = ["setpriv", "--bounding-set", rights, "--inh-caps", rights, *command]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=project.root, env=environment)
    return Outcome(done.returncode, done.stdout, done.stderr)


TABLE = "store/tables/spark_catalog/default"
DENIED: dict[str, tuple[str, str]] = {
    "the storage": ("store", "store"),
    "a table": (f"{TABLE}/firsts", f"{TABLE}/firsts"),
    "the log of a table": (f"{TABLE}/orders/_delta_log", f"{TABLE}/orders"),
    "the log of a view": (f"{TABLE}/totals/_delta_log", f"{TABLE}/totals"),
    "a checkpoint": ("store/_checkpoints/spark_catalog/default/lines/lines/0/offsets", "_checkpoints"),
    "the state of a stream": ("store/_checkpoints/spark_catalog/default/firsts/firsts/0/state/keys", "state/keys"),
    "partial values": ("store/_checkpoints/spark_catalog/default/totals/view_state/_delta_log", "view_state"),
    "what AUTO CDC remembers": ("store/_auxiliary/spark_catalog/default/latest/_delta_log", "_auxiliary"),
    "a sink's table": ("store/outbox/_delta_log", "store/outbox"),
    "a sink's folder": ("store/files", "store/files"),
}


@contextmanager
def denied(folder: Path, mode: int) -> Iterator[None]:
    """Take the permission to write from a folder and all below it."""
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in reversed(folders):
        path.chmod(mode)
    try:
        yield
    finally:
        for path in folders:
            path.chmod(0o755)


@pytest.mark.parametrize(("where", "place"), DENIED.values(), ids=DENIED.keys())
def test_a_folder_that_must_not_be_written_is_named_and_loses_nothing(project: Project, where: str, place: str) -> None:
    project.pipeline(EVERYTHING)
    project.write("spark-pipeline.yml", (project.root / "spark-pipeline.yml").read_text() + FOLLOWED)
    assert project.run().exit_code == 0
    land(project, 30, 100)
    with denied(project.root / where, 0o555):
        outcome = as_a_user(project)
    check_named(outcome, place)
    assert "ermission denied" in outcome.stderr
    assert project.run().exit_code == 0
    assert differences(project) == []


FOLLOWED = "configuration: {lakelet.views.recomputeRows: '0'}\n"
"""However small, the view keeps partial values."""


@pytest.mark.parametrize("where", ["landing/orders", "incoming"])
def test_a_source_that_must_not_be_read_is_named_and_read_later(project: Project, where: str) -> None:
    project.pipeline(EVERYTHING)
    assert project.run().exit_code == 0
    land(project, 30, 100)
    with denied(project.root / where, 0o000):
        outcome = as_a_user(project)
    assert outcome.exit_code in (1, 2), outcome.stderr
    assert "INTERNAL_ERROR" not in outcome.errors and "Traceback" not in outcome.stderr, outcome.stderr
    assert any(where in block and "\nhint: " in block for block in outcome.errors.values()), outcome.stderr
    assert project.run().exit_code == 0
    assert differences(project) == []
