"""The Spark session that user code sees: it builds plans, and asks a handler for whatever cannot wait.

`user_session` makes one, `session_active` makes it the one that `SparkSession.active()` and
`SparkSession.builder.getOrCreate()` return, `relation_of` turns a DataFrame into its plan.
"""

from __future__ import annotations

import copyreg
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from pyspark.sql.connect.dataframe import DataFrame
from pyspark.sql.connect.functions import builtin as functions
from pyspark.sql.connect.plan import SQL, LogicalPlan, SubqueryAlias
from pyspark.sql.connect.session import SparkSession

from lakelet.errors import DefinitionError, Origin, did_you_mean
from lakelet.names import NameContext
from lakelet.pipelines.call_site import call_site
from lakelet.pipelines.guarded_client import GuardedClient, UserCodeHandler
from lakelet.pipelines.sql_text import non_query_keyword

if TYPE_CHECKING:
    from pyspark.sql.connect import proto

__all__ = [
    "GuardedClient",
    "UserCodeHandler",
    "UserSession",
    "call_sites_recorded",
    "relation_of",
    "session_active",
    "user_session",
]

_QUERY_KEYWORDS = ("SELECT", "WITH", "FROM", "VALUES", "TABLE")
_ENVIRONMENT = {"SPARK_REMOTE": "sc://pipeline.invalid", "SPARK_CONNECT_MODE_ENABLED": "1"}


class UserSession(SparkSession):
    """A session whose client runs nothing by itself."""

    def __init__(self, client: GuardedClient) -> None:
        self._client = client
        self._session_id = client._session_id
        self.release_session_on_close = False

    def sql(self, sqlQuery: str, args: Any = None, **kwargs: Any) -> Any:
        """Return the DataFrame of a query without running or analysing it.

        Raises:
            DefinitionError: `UNSUPPORTED_PIPELINE_SPARK_SQL_COMMAND` for anything but one query.
        """
        views: list[SubqueryAlias] = []
        if kwargs:
            from pyspark.sql.connect.sql_formatter import SQLStringFormatter

            formatter = SQLStringFormatter(self)
            sqlQuery = formatter.format(sqlQuery, **kwargs)
            views = [SubqueryAlias(frame._plan, name) for frame, name in formatter._temp_views]
        command = non_query_keyword(sqlQuery)
        if command is not None:
            site = call_site()
            raise DefinitionError(
                "UNSUPPORTED_PIPELINE_SPARK_SQL_COMMAND",
                f"`spark.sql` cannot run `{command}` in a pipeline",
                origin=Origin(file=site.file, line=site.line) if site else None,
                cause="inside a pipeline it takes one query",
                hint=f"did you mean `{near}`?"
                if (near := did_you_mean(command, _QUERY_KEYWORDS))
                else "declare tables with `@dp.table`, and settings in `spark-pipeline.yml`",
            )
        named = {key: functions.lit(value) for key, value in args.items()} if isinstance(args, dict) else {}
        positional = [functions.lit(value) for value in args] if isinstance(args, list | tuple) else []
        return DataFrame(SQL(sqlQuery, positional, named, views), self)

    def __reduce__(self) -> Any:
        return _nothing(self)

    def stop(self) -> None:
        """Refused: the session is the pipeline's."""
        self._client.release_session()


def _nothing(_: object) -> Any:
    """Pickle as None what cannot travel: a function's module goes with it by value, its `spark` and frames too."""
    return type(None), ()


copyreg.pickle(DataFrame, _nothing)


def user_session(
    url: str,
    session_id: str,
    handler: UserCodeHandler,
    configuration: Mapping[str, str],
    *,
    names: NameContext | None = None,
) -> SparkSession:
    """Return a session for user code.

    Args:
        url: of the engine's Spark Connect server, as `sc://host:port`.
        session_id: of the engine's own client.
        configuration: what `spark.conf.get` answers, before the engine's defaults.
    """
    client = GuardedClient(
        url,
        session_id=session_id,
        handler=handler,
        configuration=configuration,
        names=names or NameContext(),
    )
    return UserSession(client)


@contextmanager
def session_active(session: SparkSession) -> Iterator[None]:
    """Make `session` the active one of this thread; what was before is restored."""
    local = cast(Any, SparkSession._active_session)
    before = getattr(local, "session", None)
    environment = {name: os.environ.get(name) for name in _ENVIRONMENT}
    local.session = session
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        local.session = before
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def call_sites_recorded() -> Iterator[None]:
    """Have every relation that user code builds know the line that built it; pyspark records it for columns only."""
    plan = cast(Any, LogicalPlan)
    construct, to_message = plan.__init__, plan._create_proto_relation
    if construct.__name__ == "construct_at_call_site":
        yield
        return

    def construct_at_call_site(self: Any, *args: Any, **kwargs: Any) -> None:
        construct(self, *args, **kwargs)
        self._lakelet_call_site = call_site()

    def to_message_with_call_site(self: Any) -> Any:
        message = to_message(self)
        site = getattr(self, "_lakelet_call_site", None)
        if site is not None:
            message.common.origin.python_origin.call_site = f"{site.file}:{site.line}"
        return message

    plan.__init__, plan._create_proto_relation = construct_at_call_site, to_message_with_call_site
    try:
        yield
    finally:
        plan.__init__, plan._create_proto_relation = construct, to_message


def relation_of(frame: Any) -> proto.Relation:
    """Return the plan of a DataFrame that user code returned.

    Its own session is active meanwhile, because the return types of functions are parsed only now.
    """
    with session_active(frame.sparkSession), call_sites_recorded():
        return cast("proto.Relation", frame._plan.to_proto(frame.sparkSession.client).root)
