"""Opens both doors, and closes them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pyarrow as pa
from pyarrow import flight
from pyspark.sql.connect.proto import base_pb2_grpc

from lakelet.addresses import in_use, is_loopback, listener, new_token, shown_host
from lakelet.doors.access import GUARD, HEADER, Certificate, FlightGuard, GrpcGuard, NoHandshake
from lakelet.doors.flight_sql import FlightSqlDoor
from lakelet.doors.sessions import MOST_BYTES
from lakelet.doors.spark_connect import SparkConnectDoor
from lakelet.doors.tables import OpenTables
from lakelet.pipeline import Pipeline
from lakelet.queries.processes import QueryProcesses

SPARK_PORT = 15002
FLIGHT_PORT = 32010
TIMEOUT_SECONDS = 300.0
QUERIES = max(2, os.cpu_count() or 2)
MOST_CALLS = 64
"""Of the Spark Connect door at once; one more is told to come again."""
_GRACE_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """Where both doors are.

    Attributes:
        spark_connect: address for a Spark session, with the token where one is needed.
        flight_sql: address for Flight SQL drivers.
        token: that clients must show; None where none is needed.
    """

    tables: OpenTables
    spark_connect: str
    flight_sql: str
    token: str | None

    def to_dict(self) -> Mapping[str, Any]:
        return {
            "pipeline": self.tables.pipeline,
            "tables": sorted(self.tables.tables),
            "spark_connect": self.spark_connect,
            "flight_sql": self.flight_sql,
            "token": self.token,
        }


@contextmanager
def open_doors(
    pipeline: Pipeline,
    *,
    host: str = "127.0.0.1",
    spark_port: int = SPARK_PORT,
    flight_port: int = FLIGHT_PORT,
    token: str | None = None,
    certificate: Certificate | None = None,
    queries: int | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Iterator[Doors]:
    """Serve the tables of a pipeline until the context ends; the pipeline's files are loaded once, before.

    Args:
        host: the address to listen at; beyond the loopback interface every client needs the token.
        spark_port, flight_port: 0 for any that is free.
        token: instead of a new one; with it the loopback interface asks for it, too.
        certificate: both doors use TLS with it.
        queries: at most so many run at once, each in a process of its own; default: one for each processor, at least 2.
        timeout_seconds: for one query, its results included.

    Raises:
        LakeletError: `ADDRESS_IN_USE`, `ADDRESS_NOT_AVAILABLE`, or what is wrong with the pipeline's files.
    """
    token = token or (None if is_loopback(host) else new_token())
    ports = {"--port": spark_port, "--flight-port": flight_port}
    for option, port in ports.items():
        listener(host, port, what="the door", option=option).close()
    processes = QueryProcesses(queries or QUERIES, timeout_seconds=timeout_seconds)
    spark: grpc.Server | None = None
    flights: FlightSqlDoor | None = None
    try:
        tables = OpenTables.of(pipeline, processes)
        pipeline.close()  # the engine was for loading; queries have their own
        with processes.lease(tables.configuration):
            pass  # the first query finds its process there
        spark, spark_port = _spark_door(tables, host, spark_port, token, certificate)
        flights = _flight_door(tables, host, flight_port, token, certificate)
        yield Doors(
            tables=tables,
            spark_connect=_spark_url(host, spark_port, token, is_secure=certificate is not None),
            flight_sql=f"grpc{'+tls' if certificate else ''}://{shown_host(host)}:{flights.port}",
            token=token,
        )
    finally:
        processes.close()  # calls that wait for a query end with an error
        if flights is not None:
            flights.shutdown()
        if spark is not None:
            spark.stop(_GRACE_SECONDS).wait()


def _spark_door(
    tables: OpenTables, host: str, port: int, token: str | None, certificate: Certificate | None
) -> tuple[grpc.Server, int]:
    server = grpc.server(
        ThreadPoolExecutor(MOST_CALLS, thread_name_prefix="spark-connect"),
        interceptors=[GrpcGuard(token)] if token is not None else [],
        options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MOST_BYTES + 2**20),
                 ("grpc.max_send_message_length", -1)],
        maximum_concurrent_rpcs=MOST_CALLS,
    )  # fmt: skip
    base_pb2_grpc.add_SparkConnectServiceServicer_to_server(SparkConnectDoor(tables), server)  # type: ignore[no-untyped-call]
    address = _address(host, port)
    try:
        if certificate is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, grpc.ssl_server_credentials([(certificate.key, certificate.chain)]))
    except RuntimeError as error:
        raise in_use(host, port, what="Spark Connect", option="--port", cause=str(error)) from error
    server.start()
    return server, port


def _flight_door(
    tables: OpenTables, host: str, port: int, token: str | None, certificate: Certificate | None
) -> FlightSqlDoor:
    scheme = "grpc" if certificate is None else "grpc+tls"
    try:
        return FlightSqlDoor(
            tables,
            location=f"{scheme}://{_address(host, port)}",
            auth_handler=NoHandshake(),
            middleware={GUARD: FlightGuard(token)},
            tls_certificates=None if certificate is None else [(certificate.chain, certificate.key)],
        )
    except (pa.ArrowException, flight.FlightError, OSError) as error:
        raise in_use(host, port, what="Flight SQL", option="--flight-port", cause=str(error)) from error


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _spark_url(host: str, port: int, token: str | None, *, is_secure: bool) -> str:
    """Return the address for a Spark session.

    PySpark sends a token over TLS only; without TLS it goes in a header of our own, which an address can have, too.
    """
    parts = ["use_ssl=true"] if is_secure else []
    if token is not None:
        parts.append(f"token={token}" if is_secure else f"{HEADER}={token}")
    return f"sc://{shown_host(host)}:{port}" + (f"/;{';'.join(parts)}" if parts else "")
