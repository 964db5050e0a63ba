"""A bound query as a DataFrame that user code may run: what the function of a `foreach_batch_sink` is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyspark.sql.connect.client import SparkConnectClient
from pyspark.sql.connect.dataframe import DataFrame
from pyspark.sql.connect.plan import LogicalPlan
from pyspark.sql.connect.session import SparkSession

from lakelet.engine.base import Engine
from lakelet.plan.relation import Relation


class _OpenSession(SparkSession):
    """A session that runs what it is told, on the engine of the update."""

    def __init__(self, client: SparkConnectClient) -> None:
        self._client = client
        self._session_id = client._session_id
        self.release_session_on_close = False


class _Bound(LogicalPlan):
    """A relation that is there already."""

    def __init__(self, relation: Relation) -> None:
        super().__init__(None)
        self._relation = relation

    def plan(self, session: Any) -> Relation:
        result = Relation()
        result.CopyFrom(self._relation)
        result.common.plan_id = self._plan_id
        return result


@contextmanager
def open_frame(engine: Engine, relation: Relation) -> Iterator[DataFrame]:
    """Return a DataFrame of the rows of `relation` for the block; every action on it computes the same rows."""
    with engine.client() as client:
        yield DataFrame(_Bound(relation), _OpenSession(client))
