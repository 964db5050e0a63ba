"""The Arrow Flight SQL door, for ADBC and JDBC drivers and the tools above them.

Nothing is kept between calls: the ticket of a statement is its text, which is checked again when it is redeemed.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.message import DecodeError
from pyarrow import flight
from pyspark.sql.pandas.types import to_arrow_schema

from lakelet.doors import flight_catalog
from lakelet.doors.access import GUARD, FlightCall
from lakelet.doors.flight_messages import packed, unpacked
from lakelet.doors.spark_errors import text_of
from lakelet.doors.streams import Running
from lakelet.doors.tables import TIME_ZONE, OpenQuery, OpenTables
from lakelet.errors import DefinitionError, LakeletError
from lakelet.plan import relation as plan
from lakelet.queries.processes import Lease

_log = logging.getLogger("lakelet.doors")
Call = TypeVar("Call", bound=Callable[..., Any])
_STATEMENTS = {
    "CommandStatementQuery": "query", "CommandPreparedStatementQuery": "prepared_statement_handle",
    "TicketStatementQuery": "statement_handle",
}  # fmt: skip
_CREATE, _CLOSE = "CreatePreparedStatement", "ClosePreparedStatement"
_NO_EFFECT = frozenset({_CLOSE, "CloseSession"})


@contextmanager
def _told(secrets: frozenset[str]) -> Iterator[None]:
    """Have errors told as Flight tells them."""
    try:
        yield
    except LakeletError as error:
        raise _KINDS.get(error.condition, flight.FlightServerError)(text_of(error, secrets=secrets)) from None
    except flight.FlightError:
        raise
    except DecodeError:
        raise flight.FlightServerError("the command is not one of Flight SQL") from None
    except Exception:
        _log.exception("a call of a Flight SQL client failed")
        raise flight.FlightInternalError("a bug in lakelet: its server printed what happened") from None


def _answered(call: Call) -> Call:
    @functools.wraps(call)
    def told(self: Any, *arguments: Any) -> Any:
        with _told(self._tables.secrets):
            return call(self, *arguments)

    return told  # type: ignore[return-value]


class FlightSqlDoor(flight.FlightServerBase):  # type: ignore[misc]
    """Answers Flight SQL clients.

    Args:
        tables: what they may read.
        options: of `pyarrow.flight.FlightServerBase`.
    """

    def __init__(self, tables: OpenTables, **options: Any) -> None:
        self._tables = tables
        super().__init__(**options)

    # -- what a command gives

    @_answered
    def get_flight_info(
        self, context: flight.ServerCallContext, descriptor: flight.FlightDescriptor
    ) -> flight.FlightInfo:
        name, command = self._command(descriptor)
        if name in _STATEMENTS:
            sql = _text_of(name, command)
            schema, ticket = self._schema(sql, context), packed("TicketStatementQuery", statement_handle=sql.encode())
        else:
            schema, ticket = flight_catalog.schema_of(name, command), descriptor.command
        return flight.FlightInfo(schema, descriptor, [flight.FlightEndpoint(ticket, [])], -1, -1)

    @_answered
    def get_schema(self, context: flight.ServerCallContext, descriptor: flight.FlightDescriptor) -> flight.SchemaResult:
        name, command = self._command(descriptor)
        if name in _STATEMENTS:
            return flight.SchemaResult(self._schema(_text_of(name, command), context))
        return flight.SchemaResult(flight_catalog.schema_of(name, command))

    def _command(self, descriptor: flight.FlightDescriptor) -> tuple[str, Any]:
        name, command = unpacked(descriptor.command or b"")
        if command is None or not (name in _STATEMENTS or flight_catalog.schema_of(name, command)):
            _refuse(name or "a path")
        return name, command

    def _query(self, sql: str) -> OpenQuery:
        query = OpenQuery(relation=plan.sql(sql))
        self._tables.check(query)
        return query

    def _schema(self, sql: str, context: flight.ServerCallContext) -> pa.Schema:
        query = self._query(sql)
        with self._tables.lease(query) as lease:
            return self._columns(query, lease, is_local=_wants_local(context))

    def _columns(self, query: OpenQuery, lease: Lease, *, is_local: bool) -> pa.Schema:
        """Return the columns of a query; what an engine says about NULL may change with the rows, so it is not told.

        Args:
            is_local: of timestamps, whether they lose their zone.
        """
        schema = to_arrow_schema(self._tables.schema(query, lease), timezone="UTC")
        return pa.schema([pa.field(field.name, _local(field.type) if is_local else field.type) for field in schema])

    # -- rows

    @_answered
    def do_get(self, context: flight.ServerCallContext, ticket: flight.Ticket) -> flight.FlightDataStream:
        name, command = unpacked(ticket.ticket)
        if command is not None and flight_catalog.schema_of(name, command):
            return flight.RecordBatchStream(flight_catalog.answer(name, command, self._tables))
        if command is None or name not in _STATEMENTS:
            _refuse(name)
        sql = _text_of(name, command)
        query = self._query(sql)
        is_local = _wants_local(context)
        running: Running[pa.Schema | pa.RecordBatch] = Running(
            self._tables, query, lambda lease: self._rows(query, lease, is_local=is_local)
        )
        parts = running.parts(context.is_cancelled)
        schema = next(parts, None)
        if schema is None:
            raise flight.FlightCancelledError("the query was cancelled")
        return flight.GeneratorStream(schema, _told_in_parts(parts, self._tables.secrets))

    def _rows(self, query: OpenQuery, lease: Lease, *, is_local: bool) -> Iterator[pa.Schema | pa.RecordBatch]:
        """Yield the columns, then the rows."""
        schema = self._columns(query, lease, is_local=is_local)
        zone = self._tables.configuration.get(TIME_ZONE, "UTC")
        yield schema
        for batch in lease.engine.stream(self._tables.bound(query, lease)):
            yield (_in_zone(batch, zone) if is_local else batch).cast(schema)

    # -- prepared statements

    @_answered
    def do_action(self, context: flight.ServerCallContext, action: flight.Action) -> list[flight.Result]:
        if action.type in _NO_EFFECT:
            return []
        if action.type != _CREATE:
            _refuse(action.type)
        _, request = unpacked(action.body.to_pybytes())
        if request is None or request.DESCRIPTOR.name != "ActionCreatePreparedStatementRequest":
            _refuse(action.type)
        schema = self._schema(request.query, context)
        answer = {
            "prepared_statement_handle": request.query.encode(),
            "dataset_schema": schema.serialize().to_pybytes(),
            "parameter_schema": pa.schema([]).serialize().to_pybytes(),
        }
        return [flight.Result(packed("ActionCreatePreparedStatementResult", **answer))]

    def list_actions(self, context: flight.ServerCallContext) -> list[tuple[str, str]]:
        return [(_CREATE, "check a query and return its columns"), (_CLOSE, "nothing is kept, so nothing is closed")]

    # -- what is refused

    @_answered
    def do_put(self, context: Any, descriptor: flight.FlightDescriptor, reader: Any, writer: Any) -> None:
        name, _ = unpacked(descriptor.command or b"")
        if name == "CommandPreparedStatementQuery":
            raise DefinitionError(
                "SQL_NOT_ALLOWED",
                "parameters of prepared statements cannot be used here",
                hint="write the values into the text of the query",
            )
        _refuse(name)

    @_answered
    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        _refuse("an exchange")

    @_answered
    def list_flights(self, context: flight.ServerCallContext, criteria: bytes) -> Any:
        _refuse("a list of flights")


def _wants_local(context: flight.ServerCallContext) -> bool:
    call: FlightCall = context.get_middleware(GUARD)
    return call.local_timestamps


def _local(kind: pa.DataType) -> pa.DataType:
    return pa.timestamp("us") if pa.types.is_timestamp(kind) else kind


def _in_zone(batch: pa.RecordBatch, zone: str) -> pa.RecordBatch:
    """Return rows with timestamps as clocks in a zone show them, and without it."""
    columns = [
        pc.local_timestamp(column.cast(pa.timestamp("us", zone)))
        if pa.types.is_timestamp(column.type) and column.type.tz
        else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _told_in_parts(parts: Iterator[Any], secrets: frozenset[str]) -> Iterator[pa.RecordBatch]:
    with _told(secrets):
        yield from parts


def _text_of(name: str, command: Any) -> str:
    text = getattr(command, _STATEMENTS[name])
    try:
        return text if isinstance(text, str) else bytes(text).decode()
    except UnicodeDecodeError:
        raise DefinitionError("SQL_NOT_ALLOWED", "the ticket is not one of this server") from None


def _refuse(what: str) -> NoReturn:
    raise DefinitionError(
        "SQL_NOT_ALLOWED",
        f"`{what}` cannot be used here",
        cause="this server is read-only",
        hint="send a query: one SELECT over the pipeline's tables and `event_log`",
    )


_KINDS = {
    "SQL_NOT_ALLOWED": flight.FlightUnauthorizedError,
    "SQL_TIMEOUT": flight.FlightTimedOutError,
    "SQL_BUSY": flight.FlightUnavailableError,
    "OPERATION_CANCELED": flight.FlightCancelledError,
}
"""Flight's own errors only: of any other pyarrow sends the traceback to the client."""
