import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pyspark
import pytest

from lakelet.pipelines import dlt as our_dlt
from lakelet.pipelines import dp as our_dp
from lakelet.pipelines.modules import pipeline_modules

NAMES = ("dlt", "pyspark.pipelines", "databricks", "databricks.pipelines", "pyspark.dbutils", "databricks.sdk.runtime")


def snapshot() -> dict[str, Any]:
    """Return what the swap may change."""
    from pyspark.sql.dataframe import DataFrame

    return {name: sys.modules.get(name) for name in NAMES} | {
        "attribute": vars(pyspark).get("pipelines"),
        "dbutils": vars(pyspark).get("dbutils"),
        "display": vars(DataFrame).get("display"),
    }


def test_every_spelling_of_the_import_gives_our_modules() -> None:
    namespace: dict[str, Any] = {}
    with pipeline_modules():
        exec(
            "import dlt\n"
            "import dlt as legacy\n"
            "from dlt import table, expect\n"
            "from pyspark import pipelines as a\n"
            "import pyspark.pipelines\n"
            "import pyspark.pipelines as b\n"
            "from pyspark.pipelines import materialized_view\n"
            "import databricks.pipelines as c\n"
            "from databricks import pipelines as d\n"
            "qualified = pyspark.pipelines\n",
            namespace,
        )
    assert namespace["dlt"] is namespace["legacy"] is our_dlt
    assert all(namespace[name] is our_dp for name in ("a", "b", "c", "d", "qualified"))
    assert namespace["table"] is our_dlt.table


def test_everything_is_restored_also_after_an_exception(session: Any) -> None:
    import pyspark.pipelines  # noqa: F401 - Spark's own, which must come back

    before = snapshot()
    with pytest.raises(KeyError), pipeline_modules(session=session):
        assert sys.modules["dlt"] is our_dlt
        raise KeyError
    assert snapshot() == before
    assert sys.modules["pyspark.pipelines"] is not our_dp


def test_another_dlt_does_not_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dlt").mkdir()
    (tmp_path / "dlt" / "__init__.py").write_text("wrong = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    other = ModuleType("dlt")
    monkeypatch.setitem(sys.modules, "dlt", other)
    with pipeline_modules():
        import dlt

        assert dlt is our_dlt
    assert sys.modules["dlt"] is other


def test_nested_use_restores_only_at_the_end() -> None:
    before = snapshot()
    with pipeline_modules():
        with pipeline_modules():
            pass
        assert sys.modules["dlt"] is our_dlt
    assert snapshot() == before


def test_databricks_globals_are_importable(session: Any) -> None:
    dbutils = object()
    namespace: dict[str, Any] = {}
    with pipeline_modules(session=session, dbutils=dbutils):
        exec(
            "from databricks.sdk.runtime import *\n"
            "from pyspark.dbutils import DBUtils\n"
            "made = DBUtils(spark)\n"
            "display(spark.range(1))\n",
            namespace,
        )
    assert namespace["spark"] is session
    assert namespace["dbutils"] is namespace["made"] is dbutils


def test_reads_use_the_active_session(session: Any) -> None:
    from lakelet.pipelines.session import relation_of

    with pipeline_modules(session=session):
        batch, stream = our_dp.read("orders"), our_dlt.readStream("LIVE.orders")
    assert relation_of(batch).read.named_table.unparsed_identifier == "orders"
    assert relation_of(stream).read.is_streaming
