"""The notebooks of the retailer, run cell by cell: writes go through the embedded engine, which is a Spark Connect server.

What the embedded engine lacks (`CREATE CATALOG`, `OPTIMIZE`, `VACUUM`) is recorded instead of run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from apparel.cli import BULK_END
from apparel.generator.clock import SteppingClock
from apparel.generator.landing import DeltaLanding, LandingChangedError
from apparel.generator.model import Stream
from apparel.generator.settings import Dirt, GeneratorSettings
from apparel.generator.spark_landing import SparkLanding
from apparel.generator.streams import Generator
from apparel.operations import health, list_written
from apparel.workspace import maintain
from lakelet.engine.sail import SailEngine
from lakelet.errors import LakeletError, SpecError
from lakelet.pipelines.dbutils import DBUtils
from lakelet.pipelines.notebook import PythonPart, is_notebook, parts_of

NOTEBOOKS = Path(__file__).parents[2] / "src" / "apparel" / "pipeline" / "notebooks"


@pytest.fixture(scope="module")
def spark(engine: SailEngine) -> Iterator[Any]:
    from pyspark.sql.connect.session import SparkSession

    session = SparkSession.builder.remote(engine.url).create()
    yield session
    session.client.close()  # or it looks for its server for ten minutes when the process ends


@dataclass
class Rows:
    rows: list[dict[str, str]]

    def collect(self) -> list[dict[str, str]]:
        return self.rows


@dataclass
class RecordingSession:
    """Writes as the real session does, and keeps the SQL that it is given; answers only `SHOW`."""

    real: Any
    answers: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    statements: list[str] = field(default_factory=list)

    def sql(self, text: str) -> Rows:
        self.statements.append(text)
        return Rows(self.answers.get(text, []))

    def createDataFrame(self, rows: Any) -> Any:
        return self.real.createDataFrame(rows)


@pytest.fixture
def run_notebook(spark: Any, tmp_path: Path) -> Callable[..., RecordingSession]:
    """Runs a notebook as Databricks would, with its parameters as widgets, and returns the session."""

    def run(
        name: str, *, answers: dict[str, list[dict[str, str]]] | None = None, **parameters: str
    ) -> RecordingSession:
        file = NOTEBOOKS / f"{name}.py"
        source = file.read_text("utf-8")
        assert is_notebook(source)
        session = RecordingSession(spark, answers or {})
        dbutils = DBUtils(storage=tmp_path, configuration={"storage": str(tmp_path), **parameters})
        namespace: dict[str, Any] = {"spark": session, "dbutils": dbutils, "__name__": "__main__"}
        for part in parts_of(source, file=file.name):
            assert isinstance(part, PythonPart)
            exec(compile(part.text, str(file), "exec", dont_inherit=True), namespace)
        return session

    return run


def test_setup_creates_what_the_command_line_creates(
    run_notebook: Callable[..., RecordingSession], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = run_notebook("setup")
    assert session.statements == [
        "SHOW CATALOGS LIKE 'apparel_store'",
        "CREATE CATALOG IF NOT EXISTS `apparel_store`",
        "CREATE SCHEMA IF NOT EXISTS `apparel_store`.`00_landing`",
        "CREATE SCHEMA IF NOT EXISTS `apparel_store`.`01_bronze`",
        "CREATE SCHEMA IF NOT EXISTS `apparel_store`.`02_silver`",
        "CREATE SCHEMA IF NOT EXISTS `apparel_store`.`03_gold`",
        "CREATE VOLUME IF NOT EXISTS `apparel_store`.`00_landing`.`streaming`",
    ]
    landing = tmp_path / "Volumes" / "apparel_store" / "00_landing" / "streaming"
    assert sorted(folder.name for folder in landing.iterdir()) == ["customers", "items", "sales", "stores"]
    assert "volume apparel_store.00_landing.streaming" in capsys.readouterr().out


def test_setup_does_not_create_a_catalog_that_is_there(run_notebook: Callable[..., RecordingSession]) -> None:
    session = run_notebook("setup", answers={"SHOW CATALOGS LIKE 'apparel_store'": [{"catalog": "apparel_store"}]})
    assert not [text for text in session.statements if text.startswith("CREATE CATALOG")]


def test_the_generator_writes_its_batches_and_the_next_run_goes_on(
    run_notebook: Callable[..., RecordingSession], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_notebook("generator", batches="2", interval="0", seed="5")
    assert len(capsys.readouterr().out.splitlines()) == 2
    run_notebook("generator", batches="1", interval="0", seed="5")
    sales = DeltaTable(tmp_path / "Volumes" / "apparel_store" / "00_landing" / "streaming" / "sales")
    ids = sales.to_pyarrow_table()["transaction_id"].to_pylist()
    assert sorted(ids) == list(range(1, 1501))
    assert all(key.orphans == 0 for key in health(tmp_path).foreign_keys)


def test_maintenance_lists_checks_and_compacts(
    run_notebook: Callable[..., RecordingSession], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_notebook("generator", batches="1", interval="0")
    capsys.readouterr()
    session = run_notebook("maintenance", retention_hours="200")
    sales = tmp_path / "Volumes" / "apparel_store" / "00_landing" / "streaming" / "sales"
    assert f"OPTIMIZE delta.`{sales}`" in session.statements
    assert f"VACUUM delta.`{sales}` RETAIN 200 HOURS" in session.statements
    assert not [text for text in session.statements if text.startswith("DROP")]
    told = capsys.readouterr().out
    assert "sales: 500 rows" in told and "sales by store_id: 0 refer to nothing" in told


def test_maintenance_starts_over_when_told_to(run_notebook: Callable[..., RecordingSession], tmp_path: Path) -> None:
    run_notebook("generator", batches="1", interval="0")
    tables = {"SHOW TABLES IN `apparel_store`.`03_gold`": [{"tableName": "gold_product_performance"}]}
    session = run_notebook("maintenance", answers=tables, drop_tables="true", clear_landing="true")
    dropped = [text for text in session.statements if text.startswith("DROP")]
    assert dropped == ["DROP TABLE IF EXISTS `apparel_store`.`03_gold`.`gold_product_performance`"]
    assert [listing.rows for listing in list_written(tmp_path)] == [0, 0, 0, 0]


def test_a_short_retention_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="RETENTION_TOO_SHORT"):
        maintain(RecordingSession(None), tmp_path, retention_hours=1)


def test_spark_writes_the_rows_that_delta_rs_writes(spark: Any, tmp_path: Path) -> None:
    settings = GeneratorSettings(
        seed=3, dirt=Dirt(null_customer_key_rate=0.2, schema_drift_rate=0.3, duplicate_rate=0.1)
    )
    landings = (DeltaLanding(tmp_path / "own"), SparkLanding(spark, tmp_path / "spark"))
    for landing in landings:
        generator = Generator(settings, landing, clock=SteppingClock(BULK_END, step_seconds=30))
        for _ in range(3):
            generator.write_batch()
    for stream in Stream:
        own, through_spark = (DeltaTable(landing.folder / stream).to_pyarrow_table() for landing in landings)
        order = [(name, "ascending") for name in own.column_names]
        assert through_spark.select(own.column_names).cast(own.schema).sort_by(order).equals(own.sort_by(order)), stream


def one_row() -> pa.Table:
    return pa.Table.from_pylist([{"store_id": 1}], schema=Stream.STORES.schema)


def test_a_table_that_moved_on_is_not_appended_to(spark: Any, tmp_path: Path) -> None:
    landing = SparkLanding(spark, tmp_path)
    row = one_row()
    assert landing.append(Stream.STORES, row.to_reader(), after=None) == 0
    with pytest.raises(LandingChangedError):
        landing.append(Stream.STORES, row.to_reader(), after=None)
    assert landing.append(Stream.STORES, row.to_reader(), after=0) == 1


def test_what_spark_reports_is_an_error_with_an_action(spark: Any, tmp_path: Path) -> None:
    landing = SparkLanding(spark, tmp_path)
    rows = one_row()
    landing.append(Stream.STORES, rows.to_reader(), after=None)
    wrong = rows.set_column(0, "store_id", pa.array([["a list"]]))
    with pytest.raises(LakeletError) as caught:
        landing.append(Stream.STORES, wrong.to_reader(), after=0)
    assert caught.value.condition == "LANDING_WRITE_FAILED"
