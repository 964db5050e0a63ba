"""The Spark Connect door: a server in front of the query processes, which takes nothing but what reads.

A plan is checked, bound to the newest versions, and run by a process of its own; what the engine answers is passed on. A result
is not kept: a connection that breaks in the middle of one ends the query with an error, and a client that has got
nothing yet runs it again.
"""

from __future__ import annotations

import functools
import inspect
import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import grpc
import pyarrow as pa
from pyspark.sql.connect import proto
from pyspark.sql.connect.proto import base_pb2_grpc
from pyspark.sql.connect.types import pyspark_types_to_proto_types
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.version import __version__ as SPARK_VERSION

from lakelet.doors import catalog
from lakelet.doors.sessions import Session, Sessions
from lakelet.doors.spark_errors import fail, refuse
from lakelet.doors.streams import Running
from lakelet.doors.tables import OpenTables
from lakelet.errors import DefinitionError, LakeletError, QueryError
from lakelet.plan.relation import Relation
from lakelet.plan.sql import is_query

_log = logging.getLogger("lakelet.doors")
Response = proto.ExecutePlanResponse
Call = TypeVar("Call", bound=Callable[..., Any])

_WRITES = frozenset(
    {"write_operation", "write_operation_v2", "merge_into_table_command", "write_stream_operation_start"}
)
_CODE = frozenset({"register_function", "register_table_function", "register_data_source"})


@contextmanager
def _told(context: grpc.ServicerContext, secrets: frozenset[str]) -> Iterator[None]:
    """Have errors told as Spark tells them."""
    try:
        yield
    except LakeletError as error:
        refuse(context, error, secrets=secrets)
    except RecursionError:
        deep = DefinitionError("SQL_NOT_ALLOWED", "the plan is nested too deeply", hint="compute it in several steps")
        refuse(context, deep, secrets=secrets)
    except Exception:
        _log.exception("a call of a Spark Connect client failed")
        fail(context)


def _answered(call: Call) -> Call:
    """Have what a call raises told to the client, also in the middle of an answer."""

    @functools.wraps(call)
    def whole(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        with _told(context, self._tables.secrets):
            return call(self, request, context)

    @functools.wraps(call)
    def parts(self: Any, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        with _told(context, self._tables.secrets):
            yield from call(self, request, context)

    return cast(Call, parts if inspect.isgeneratorfunction(call) else whole)


class SparkConnectDoor(base_pb2_grpc.SparkConnectServiceServicer):
    """Answers Spark Connect clients."""

    def __init__(self, tables: OpenTables) -> None:
        self._tables = tables
        self._sessions = Sessions(tables.names, tables.configuration)

    def _session(self, request: Any) -> Session:
        session = self._sessions.get(request.user_context.user_id, request.session_id)
        observed = request.client_observed_server_side_session_id
        if observed and observed != session.server_id:
            raise QueryError(
                "INVALID_HANDLE.SESSION_CHANGED",
                "the server was started again, or has forgotten this session",
                hint="make a new session: settings and temporary views of the old one are gone",
            )
        return session

    # -- queries

    @_answered
    def ExecutePlan(self, request: proto.ExecutePlanRequest, context: grpc.ServicerContext) -> Iterator[Response]:
        session = self._session(request)
        request.plan.DiscardUnknownFields()
        operation = request.operation_id or str(uuid.uuid4())
        kind = request.plan.WhichOneof("op_type")
        if kind == "command":
            found = self._command(request.plan.command, session)
        elif kind == "root" and request.plan.root.WhichOneof("rel_type") == "catalog":
            found = _rows(catalog.answer(request.plan.root.catalog, self._tables, session))
        elif kind == "root":
            found = self._run(request.plan.root, session, operation, frozenset(request.tags), context)
        else:
            raise DefinitionError(
                "CONNECT_INVALID_PLAN.CANNOT_PARSE",
                "the plan is compressed, or is none",
                hint="leave `spark.connect.session.planCompression.threshold` as it is",
            )
        for response in found:
            yield _of(response, request, session, operation)
        yield _of(Response(result_complete=Response.ResultComplete()), request, session, operation)

    def _run(
        self, relation: Relation, session: Session, operation: str, tags: frozenset[str], context: grpc.ServicerContext
    ) -> Iterator[Response]:
        query = session.query(relation)
        self._tables.check(query)
        running: Running[Response] = Running(
            self._tables, query, lambda lease: lease.engine.responses(self._tables.bound(query, lease))
        )
        session.running[operation] = (running, tags)
        try:
            for response in running.parts(lambda: not context.is_active()):
                if not response.HasField("result_complete"):
                    yield response
        finally:
            session.running.pop(operation, None)

    def _command(self, command: proto.Command, session: Session) -> Iterator[Response]:
        """Run a command that changes nothing but the client's own session.

        Raises:
            DefinitionError: `SQL_NOT_ALLOWED` for every other.
        """
        kind = command.WhichOneof("command_type") or ""
        if kind == "sql_command":
            yield Response(
                sql_command_result=Response.SqlCommandResult(relation=self._sql(command.sql_command, session))
            )
            return
        if kind == "create_dataframe_view" and not command.create_dataframe_view.is_global:
            view = command.create_dataframe_view
            query = session.query(view.input)
            with self._tables.lease(query) as lease:
                tree = self._tables.view(query, lease)
            session.keep(view.name, tree, replace=view.replace)
            return
        if kind in _WRITES:
            message, hint = "nothing can be written here", "only the pipeline writes its tables"
        elif kind in _CODE:
            message = "functions in Python, Java or Scala cannot be used here"
            hint = "compute with built-in functions, or on the client: `frame.toPandas()`, `frame.toArrow()`"
        else:
            message, hint = (
                f"the command `{kind}` cannot be used here",
                "read: `spark.sql`, `spark.table`, `spark.catalog`",
            )
        raise DefinitionError("SQL_NOT_ALLOWED", message, cause="this server is read-only", hint=hint)

    def _sql(self, command: proto.SqlCommand, session: Session) -> Relation:
        """Return the relation of `spark.sql(text)`, its columns found: a wrong query fails where it is written."""
        if command.HasField("input"):
            relation = command.input
        else:
            relation = Relation()
            relation.sql.query = command.sql
        inner = relation.with_relations.root if relation.HasField("with_relations") else relation
        if inner.HasField("sql") and not is_query(inner.sql.query):
            raise DefinitionError(
                "SQL_NOT_ALLOWED",
                "only a query can be run here",
                cause=inner.sql.query.strip()[:200],
                hint="write one SELECT; `spark.catalog` lists schemas, tables and columns",
            )
        query = session.query(relation)
        self._tables.check(query)
        with self._tables.lease(query) as lease:
            self._tables.schema(query, lease)
        return relation

    @_answered
    def ReattachExecute(
        self, request: proto.ReattachExecuteRequest, context: grpc.ServicerContext
    ) -> Iterator[Response]:
        raise QueryError(
            "INVALID_HANDLE.OPERATION_NOT_FOUND",
            "the connection broke, and the results of the query are gone with it",
            hint="run the query again",
        )
        yield

    @_answered
    def ReleaseExecute(
        self, request: proto.ReleaseExecuteRequest, context: grpc.ServicerContext
    ) -> proto.ReleaseExecuteResponse:
        session = self._session(request)
        if request.HasField("release_all"):
            session.cancel(operation=request.operation_id)
        return proto.ReleaseExecuteResponse(
            session_id=request.session_id, operation_id=request.operation_id, server_side_session_id=session.server_id
        )

    @_answered
    def Interrupt(self, request: proto.InterruptRequest, context: grpc.ServicerContext) -> proto.InterruptResponse:
        session = self._session(request)
        match request.interrupt_type:
            case proto.InterruptRequest.INTERRUPT_TYPE_ALL:
                ended = session.cancel()
            case proto.InterruptRequest.INTERRUPT_TYPE_TAG:
                ended = session.cancel(tag=request.operation_tag)
            case _:
                ended = session.cancel(operation=request.operation_id)
        return proto.InterruptResponse(
            session_id=request.session_id, interrupted_ids=ended, server_side_session_id=session.server_id
        )

    # -- questions

    @_answered
    def AnalyzePlan(
        self, request: proto.AnalyzePlanRequest, context: grpc.ServicerContext
    ) -> proto.AnalyzePlanResponse:
        session = self._session(request)
        request.DiscardUnknownFields()
        kind = request.WhichOneof("analyze") or ""
        answer = proto.AnalyzePlanResponse(session_id=request.session_id, server_side_session_id=session.server_id)
        match kind:
            case "schema":
                answer.schema.schema.CopyFrom(self._proto_schema(request.schema.plan, session))
            case "tree_string":
                level = request.tree_string.level if request.tree_string.HasField("level") else None
                answer.tree_string.tree_string = self._schema(request.tree_string.plan, session).treeString(level)
            case "is_local" | "is_streaming":
                getattr(answer, kind).SetInParent()
            case "spark_version":
                answer.spark_version.version = SPARK_VERSION
            case "ddl_parse":
                answer.ddl_parse.parsed.CopyFrom(self._parsed(request.ddl_parse.ddl_string, session))
            case "same_semantics":
                same = request.same_semantics
                answer.same_semantics.result = same.target_plan == same.other_plan
            case "semantic_hash":
                plan = request.semantic_hash.plan.SerializeToString(deterministic=True)
                answer.semantic_hash.result = int.from_bytes(uuid.uuid5(uuid.NAMESPACE_OID, plan.hex()).bytes[:3])
            case "persist" | "unpersist" | "get_storage_level":  # caching changes no result
                getattr(answer, kind).SetInParent()
            case _:
                raise DefinitionError(
                    "UNSUPPORTED_FEATURE",
                    f"this server does not answer `{kind}`",
                    hint="run the query; `lakelet explain` says how the pipeline refreshes a view",
                )
        return answer

    def _schema(self, plan: proto.Plan, session: Session) -> Any:
        query = session.query(plan.root)
        self._tables.check(query)
        with self._tables.lease(query) as lease:
            return self._tables.schema(query, lease)

    def _proto_schema(self, plan: proto.Plan, session: Session) -> proto.DataType:
        return pyspark_types_to_proto_types(self._schema(plan, session))

    def _parsed(self, ddl: str, session: Session) -> proto.DataType:
        from lakelet.plan.ddl import parse_columns

        with self._tables.lease(session.query(Relation())) as lease:
            return pyspark_types_to_proto_types(parse_columns(ddl, lease.engine))

    @_answered
    def Config(self, request: proto.ConfigRequest, context: grpc.ServicerContext) -> proto.ConfigResponse:
        session = self._session(request)
        operation = request.operation
        pairs: list[tuple[str, str | None]] = []
        match operation.WhichOneof("op_type"):
            case "set":
                for pair in operation.set.pairs:
                    if session.may_set(pair.key) or not operation.set.silent:  # silent: options of a session builder
                        session.set(pair.key, pair.value)
            case "unset":
                for key in operation.unset.keys:
                    session.settings.pop(key, None)
            case "get":
                for key in operation.get.keys:
                    if session.setting(key) is None:
                        raise DefinitionError("SQL_CONF_NOT_FOUND", f"there is no setting `{key}`")
                    pairs.append((key, session.setting(key)))
            case "get_option":
                pairs = [(key, session.setting(key)) for key in operation.get_option.keys]
            case "get_with_default":
                for pair in operation.get_with_default.pairs:
                    default = pair.value if pair.HasField("value") else None
                    found = session.setting(pair.key)
                    pairs.append((pair.key, default if found is None else found))
            case "get_all":
                prefix = operation.get_all.prefix
                pairs = [
                    (key, value) for key, value in sorted(session.all_settings().items()) if key.startswith(prefix)
                ]
            case "is_modifiable":
                pairs = [(key, str(session.may_set(key)).lower()) for key in operation.is_modifiable.keys]
        return proto.ConfigResponse(
            session_id=request.session_id,
            server_side_session_id=session.server_id,
            pairs=[proto.KeyValue(key=key, value=value) for key, value in pairs],
        )

    @_answered
    def ReleaseSession(
        self, request: proto.ReleaseSessionRequest, context: grpc.ServicerContext
    ) -> proto.ReleaseSessionResponse:
        self._sessions.release(request.user_context.user_id, request.session_id)
        return proto.ReleaseSessionResponse(session_id=request.session_id)

    # -- what would run code, or keep something

    @_answered
    def AddArtifacts(self, request_iterator: Any, context: grpc.ServicerContext) -> proto.AddArtifactsResponse:
        raise DefinitionError(
            "SQL_NOT_ALLOWED",
            "files and large local tables cannot be uploaded here",
            cause="this server is read-only",
            hint="send fewer rows with `createDataFrame`, or join on the client",
        )

    @_answered
    def ArtifactStatus(
        self, request: proto.ArtifactStatusesRequest, context: grpc.ServicerContext
    ) -> proto.ArtifactStatusesResponse:
        return proto.ArtifactStatusesResponse(session_id=request.session_id)

    @_answered
    def CloneSession(self, request: proto.CloneSessionRequest, context: grpc.ServicerContext) -> Any:
        raise DefinitionError("UNSUPPORTED_FEATURE", "a session cannot be cloned here", hint="make a new one")


def _of(response: Response, request: proto.ExecutePlanRequest, session: Session, operation: str) -> Response:
    """Return a part of an answer as one of this session."""
    response.session_id, response.server_side_session_id = request.session_id, session.server_id
    response.operation_id, response.response_id = operation, str(uuid.uuid4())
    return response


def _rows(table: pa.Table) -> Iterator[Response]:
    """Yield rows that this server has itself."""
    yield Response(schema=pyspark_types_to_proto_types(from_arrow_schema(table.schema)))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    batch = Response.ArrowBatch(row_count=table.num_rows, data=sink.getvalue().to_pybytes())
    yield Response(arrow_batch=batch)
