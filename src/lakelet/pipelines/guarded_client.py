"""The Spark Connect client behind the session that user code sees. It asks a handler instead of the server.

Three stateless questions (parse a DDL string, write one, the version) go to the server; nothing else can,
because the stub that the client would call refuses everything else.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from pyspark.errors.exceptions.connect import SparkNoSuchElementException
from pyspark.sql.connect.client import DefaultChannelBuilder, SparkConnectClient
from pyspark.sql.connect.client.core import AnalyzeResult, ConfigResult

from lakelet.engine.connect import CHANNEL_OPTIONS, with_session
from lakelet.errors import DefinitionError, LakeletError, Origin
from lakelet.names import NameContext
from lakelet.pipelines.call_site import CallSite, call_site
from lakelet.pipelines.engine_defaults import ENGINE_DEFAULTS
from lakelet.pipelines.phase import Phase, current_phase

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql.connect import proto
    from pyspark.sql.types import StructType

_log = logging.getLogger("lakelet.pipelines")
_STATELESS = frozenset({"ddl_parse", "json_to_ddl", "spark_version"})
_WRITES = frozenset(
    {
        "write_operation",
        "write_operation_v2",
        "write_stream_operation_start",
        "merge_into_table_command",
    }
)
_REGISTRATIONS = frozenset({"register_function", "register_table_function", "register_data_source"})
_CATALOG_MUTATIONS = frozenset(
    {"set_current_catalog", "set_current_database", "drop_temp_view", "drop_global_temp_view"}
)
_CATALOG_NO_EFFECT = frozenset({"cache_table", "uncache_table", "clear_cache", "refresh_table", "refresh_by_path"})
_MISSING_TABLE = frozenset({"TABLE_OR_VIEW_NOT_FOUND", "PATH_NOT_FOUND", "DELTA_TABLE_NOT_FOUND"})


class UserCodeHandler(Protocol):
    """Answers what user code asks while it builds a query, by the plan that its calls made."""

    def schema_of(self, relation: proto.Relation) -> StructType:
        """Return the schema of a relation; pipeline datasets are resolved first.

        Raises:
            LakeletError: with condition `TABLE_OR_VIEW_NOT_FOUND` when a table that it reads does not exist.
        """
        ...

    def is_streaming(self, relation: proto.Relation) -> bool:
        """Tell whether a relation reads a stream."""
        ...

    def execute(self, relation: proto.Relation) -> pa.Table:
        """Return the rows of a relation; only called while a file loads."""
        ...

    def command(self, command: proto.Command) -> None:
        """Run a command: the registration of a function, table function or data source."""
        ...


class GuardedClient(SparkConnectClient):
    """A client that never runs a query by itself.

    Args:
        url: of the engine's server.
        session_id: the engine's own, so that both see a function that user code registers.
        names: what `spark.catalog.currentDatabase()` and `currentCatalog()` answer.
    """

    def __init__(
        self,
        url: str,
        *,
        session_id: str,
        handler: UserCodeHandler,
        configuration: Mapping[str, str],
        names: NameContext,
    ) -> None:
        connection = with_session(url, session_id)
        super().__init__(connection=DefaultChannelBuilder(connection, channelOptions=CHANNEL_OPTIONS))
        self._handler = handler
        self._names = names
        self._configuration = {**ENGINE_DEFAULTS, **configuration}
        self._server: Any = self._internal_stub
        self._internal_stub: Any = _RefusingStub()
        self._plan_compression_threshold = -1
        self._plan_compression_algorithm = "NONE"

    # --- questions

    def _analyze(self, method: str, **kwargs: Any) -> AnalyzeResult:
        if method in _STATELESS:
            return self._ask_server(method, **kwargs)
        if method in ("persist", "unpersist"):  # caching changes no result
            _log.debug("%s() has no effect in a pipeline", method)
            return _answer()
        if method == "schema":
            return _answer(schema=self._handler.schema_of(kwargs["plan"].root))
        if method == "is_streaming":
            return _answer(is_streaming=self._handler.is_streaming(kwargs["plan"].root))
        if method == "is_local":
            return _answer(is_local=False)
        if method == "get_storage_level":
            from pyspark import StorageLevel

            return _answer(storage_level=StorageLevel.NONE)
        if method == "same_semantics":
            return _answer(is_same_semantics=kwargs["plan"] == kwargs["other"])
        raise _action_refused(method, hint="inspect the query after the update, with `lakelet query`")

    def _ask_server(self, method: str, **kwargs: Any) -> AnalyzeResult:
        """Put a question that reads no data and changes nothing."""
        self._internal_stub = self._server
        try:
            return super()._analyze(method, **kwargs)
        finally:
            self._internal_stub = _RefusingStub()

    # --- rows

    def _execute_and_fetch(
        self, req: Any, observations: Any, self_destruct: bool = False
    ) -> tuple[Any, Any, list[Any], list[Any], dict[str, Any]]:
        table = self._run(req.plan)
        return table, None, [], [], {}

    def _execute_and_fetch_as_iterator(self, req: Any, observations: Any, progress: Any = None) -> Any:
        table = self._run(req.plan)
        if table is not None:
            yield from table.combine_chunks().to_batches()

    def _execute(self, req: Any) -> None:
        self._run(req.plan)

    def _run(self, plan: proto.Plan) -> pa.Table | None:
        if plan.HasField("command"):
            self._command(plan.command)
            return None
        if plan.root.HasField("catalog"):
            return self._catalog(plan.root.catalog)
        if current_phase() is not Phase.LOAD:
            raise _action_refused(None, hint=_ACTION_HINT)
        return self._handler.execute(plan.root)

    def _command(self, command: proto.Command) -> None:
        kind = command.WhichOneof("command_type") or ""
        if kind in _WRITES:
            raise _write_refused()
        if kind in _REGISTRATIONS and not command.register_function.HasField("java_udf"):
            self._handler.command(command)
            return
        if kind in ("create_dataframe_view", "register_function"):
            raise _mutation_refused()
        raise _action_refused(kind, hint=_ACTION_HINT)

    # --- catalog

    def _catalog(self, catalog: proto.Catalog) -> pa.Table:
        import pyarrow as pa

        kind = catalog.WhichOneof("cat_type") or ""
        if kind == "table_exists":
            asked = catalog.table_exists
            name = f"{asked.db_name}.{asked.table_name}" if asked.db_name else asked.table_name
            return pa.table({"value": [self._table_exists(name)]})
        if kind == "current_database":
            return pa.table({"value": [self._names.schema]})
        if kind == "current_catalog":
            return pa.table({"value": [self._names.catalog]})
        if kind == "is_cached":
            return pa.table({"value": [False]})
        if kind in _CATALOG_NO_EFFECT:
            return pa.table({"value": pa.array([], type=pa.bool_())})
        if kind in _CATALOG_MUTATIONS:
            raise _mutation_refused()
        if kind.startswith(("create_", "drop_")):
            raise _write_refused()
        site = call_site()
        raise DefinitionError(
            "UNSUPPORTED_FEATURE",
            f"`spark.catalog.{_call_name(site, kind)}` is not available in a pipeline",
            origin=_origin(site),
            hint="name the tables that the pipeline reads, or use `spark.catalog.tableExists(name)`",
        )

    def _table_exists(self, name: str) -> bool:
        from pyspark.errors import AnalysisException
        from pyspark.sql.connect import proto

        relation = proto.Relation()
        relation.read.named_table.unparsed_identifier = name
        try:
            self._handler.schema_of(relation)
        except LakeletError as error:
            if error.condition in _MISSING_TABLE:
                return False
            raise
        except AnalysisException as error:
            if error.getCondition() in _MISSING_TABLE:
                return False
            raise
        return True

    # --- configuration

    def config(self, operation: Any) -> ConfigResult:
        kind = operation.WhichOneof("op_type")
        values = self._configuration
        if kind == "get":
            return ConfigResult([(key, self._setting(key)) for key in operation.get.keys], [])
        if kind == "get_option":
            return ConfigResult([(key, values.get(key)) for key in operation.get_option.keys], [])
        if kind == "get_with_default":
            pairs = operation.get_with_default.pairs
            return ConfigResult(
                [(p.key, values.get(p.key, p.value if p.HasField("value") else None)) for p in pairs], []
            )
        if kind == "get_all":
            prefix = operation.get_all.prefix
            return ConfigResult([(k, v) for k, v in sorted(values.items()) if k.startswith(prefix)], [])
        if kind == "is_modifiable":
            return ConfigResult([(key, "false") for key in operation.is_modifiable.keys], [])
        if kind == "set" and operation.set.silent:  # options of a session builder, of a session that exists already
            labels = ("spark.app.name", "spark.master")
            ignored = [p.key for p in operation.set.pairs if p.key not in labels and values.get(p.key) != p.value]
            if ignored:
                _log.warning("options of SparkSession.builder are ignored in a pipeline: %s", ", ".join(ignored))
            return ConfigResult([], [])
        raise _mutation_refused()

    def _setting(self, key: str) -> str:
        value: str | None = self._configuration.get(key)
        if value is None:
            raise SparkNoSuchElementException(
                errorClass="SQL_CONF_NOT_FOUND",
                message=f'[SQL_CONF_NOT_FOUND] The SQL config "{key}" cannot be found. '
                "Add it to `configuration` in `spark-pipeline.yml`, or give a default.",
            )
        return value

    # --- everything else that would reach the server

    def add_artifacts(self, *paths: str, pyfile: bool, archive: bool, file: bool) -> None:
        raise _mutation_refused(hint="import the module: functions of sibling modules travel with the query")

    def copy_from_local_to_fs(self, local_path: str, dest_path: str) -> None:
        raise _write_refused()

    def interrupt_all(self) -> list[str]:
        raise _mutation_refused()

    def interrupt_tag(self, tag: str) -> list[str]:
        raise _mutation_refused()

    def interrupt_operation(self, op_id: str) -> list[str]:
        raise _mutation_refused()

    def release_session(self) -> None:
        raise _mutation_refused(hint="remove `spark.stop()`; the runtime ends the session")

    def clone(self, new_session_id: str | None = None) -> SparkConnectClient:
        raise _mutation_refused(hint="use the session `spark`")


class _RefusingStub:
    """Takes the place of the server's stub, so that no call can reach it by a way that we forgot."""

    def __getattr__(self, name: str) -> Any:
        raise _action_refused(name, hint=_ACTION_HINT)


_ACTION_HINT = (
    "return the DataFrame: the pipeline runs it; "
    "read small fixed tables at the top level of the file, outside of query functions"
)


def _answer(**fields: Any) -> AnalyzeResult:
    """Return an answer with some fields set, whatever fields this version of the client has."""
    names = [name for name in AnalyzeResult.__init__.__code__.co_varnames if name != "self"]
    names = names[: AnalyzeResult.__init__.__code__.co_argcount - 1]
    return AnalyzeResult(**{name: fields.get(name) for name in names})


def _action_refused(kind: str | None, *, hint: str) -> DefinitionError:
    site = call_site()
    where = "inside a query function" if current_phase() is Phase.QUERY else "in a pipeline file"
    return DefinitionError(
        "ATTEMPT_ANALYSIS_IN_PIPELINE_QUERY_FUNCTION",
        f"`{_call_name(site, kind)}()` was called {where}",
        origin=_origin(site),
        cause="a query function builds a query and returns it; it runs nothing",
        hint=hint,
    )


def _write_refused() -> DefinitionError:
    site = call_site()
    return DefinitionError(
        "ATTEMPT_ANALYSIS_IN_PIPELINE_QUERY_FUNCTION",
        f"`{_call_name(site, 'save')}()` writes, which a pipeline file may not do",
        origin=_origin(site),
        cause="the pipeline writes its tables itself, exactly once",
        hint="return the DataFrame from a function decorated with `@dp.table`",
    )


def _mutation_refused(hint: str = "set it under `configuration` in `spark-pipeline.yml`") -> DefinitionError:
    site = call_site()
    name = _call_name(site, "set")
    if "TempView" in name or "TempTable" in name:
        hint = "declare a view: `@dp.temporary_view`" if name.startswith(("create", "register")) else "remove the call"
    elif name.startswith("registerJava"):
        hint = "register a Python function"
    elif name.startswith("setCurrent"):
        hint = "set `catalog` and `database` in `spark-pipeline.yml`"
    return DefinitionError(
        "SESSION_MUTATION_IN_DECLARATIVE_PIPELINE",
        f"`{name}()` changes the session, which a pipeline file may not do",
        origin=_origin(site),
        cause="every query of the pipeline runs under the same settings",
        hint=hint,
    )


def _call_name(site: CallSite | None, fallback: str | None) -> str:
    return (site.call if site else None) or fallback or "action"


def _origin(site: CallSite | None) -> Origin | None:
    return Origin(file=site.file, line=site.line) if site else None
