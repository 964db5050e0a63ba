"""The command that opens a pipeline's tables to other tools: `serve`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from lakelet.terminal.interrupts import told_of_signals
from lakelet.terminal.project_command import json_option, opened, project_options, write_json


@click.command()
@project_options
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen at. Beyond this machine a token is needed.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=15002,
    show_default=True,
    help="Of Spark Connect. 0 takes any that is free.",
)
@click.option(
    "--flight-port",
    type=click.IntRange(0, 65535),
    default=32010,
    show_default=True,
    help="Of Arrow Flight SQL. 0 takes any that is free.",
)
@click.option("--token", envvar="LAKELET_SERVE_TOKEN", help="The token to ask for, instead of a new one.")
@click.option("--tls-certificate", type=click.Path(path_type=Path), help="PEM file: both doors use TLS with it.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="PEM file with the certificate's key.")
@click.option(
    "--queries", type=click.IntRange(1, 64), help="Queries at once. Default: one for each processor, at least 2."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=300,
    show_default=True,
    help="Seconds that a query may take, its results included.",
)
@json_option
def serve(
    spec: str | None,
    storage: str | None,
    configuration: dict[str, str],
    host: str,
    port: int,
    flight_port: int,
    token: str | None,
    tls_certificate: Path | None,
    tls_key: Path | None,
    queries: int | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Serve the pipeline's tables to other tools, read-only: over Spark Connect and Arrow Flight SQL.

    Queries run in processes of their own, over the newest version of each table. Until Ctrl-C.
    """
    from lakelet.doors import Certificate, open_doors

    if (tls_certificate is None) != (tls_key is None):
        raise click.UsageError("--tls-certificate and --tls-key belong together")
    certificate = Certificate.read(tls_certificate, tls_key) if tls_certificate and tls_key else None
    with (
        opened(spec, storage, configuration) as (pipeline, out),
        _until_asked_to_end() as asked,
        open_doors(
            pipeline,
            host=host,
            spark_port=port,
            flight_port=flight_port,
            token=token,
            certificate=certificate,
            queries=queries,
            timeout_seconds=timeout,
        ) as doors,
    ):
        if as_json:
            write_json(doors.to_dict(), out)
        else:
            out.write(f"{pipeline.spec.name}: {len(doors.tables.tables)} tables, read-only (Ctrl-C ends it)\n")
            out.write(f"  Spark Connect  {doors.spark_connect}\n  Flight SQL     {doors.flight_sql}\n")
            if doors.token is not None:
                out.write(f"  token          {doors.token}\n")
        out.flush()
        asked.wait()


@contextmanager
def _until_asked_to_end() -> Iterator[threading.Event]:
    """Give an event that SIGINT and SIGTERM set."""
    asked = threading.Event()
    with told_of_signals(asked.set):
        yield asked
