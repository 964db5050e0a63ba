"""`lakelet spark up | down | status`: a Spark Connect server with Delta Lake on this machine."""

from __future__ import annotations

import functools
import json

import click

from lakelet.engine.spark_object_stores import OBJECT_STORES
from lakelet.engine.spark_server import DEFAULT_MEMORY, DEFAULT_PORT, RunningServer


@click.group()
def spark() -> None:
    """Start and stop a local Apache Spark for `lakelet.engine: sc://…`."""


json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON, and nothing else, to stdout.")


@spark.command()
@click.option("--port", type=click.IntRange(1, 65535), help=f"Where it listens. Default: {DEFAULT_PORT}.")
@click.option("--memory", help=f"Memory of the server, as in `512m` or `4g`. Default: {DEFAULT_MEMORY}.")
@click.option(
    "--object-store",
    type=click.Choice(list(OBJECT_STORES)),
    help="Read and write there too, as `AWS_*`, `AZURE_*` or `GOOGLE_*` in the environment say; downloads up to 36 MB more.",
)
@json_option
def up(port: int | None, memory: str | None, object_store: str | None, as_json: bool) -> None:
    """Start the server; the first time, download Spark (450 MB) and Delta Lake (90 MB). Needs Java 17."""
    from lakelet.engine import spark_server

    say = functools.partial(click.echo, err=True)
    server = spark_server.up(port=port, memory=memory, object_store=object_store, say=say)
    if as_json:
        _write(server)
        return
    click.echo(f"Apache Spark answers at {server.url}")
    click.echo(f"\nnext: lakelet run --conf lakelet.engine={server.url}")


@spark.command()
@json_option
def down(as_json: bool) -> None:
    """Stop the server."""
    from lakelet.engine import spark_server

    server = spark_server.down()
    if as_json:
        _write(server)
        return
    click.echo("no server runs" if server is None else f"stopped the server at {server.url}")


@spark.command()
@json_option
def status(as_json: bool) -> None:
    """Tell whether the server runs."""
    from lakelet.engine import spark_server

    server = spark_server.status()
    if as_json:
        _write(server)
        return
    if server is not None:
        store = "" if server.object_store is None else f", object store {server.object_store}"
        click.echo(f"{server.url}, process {server.pid}, memory {server.memory}{store}, log {server.log}")
        return
    silent = spark_server.noted()
    click.echo(
        "no server runs"
        if silent is None
        else f"process {silent.pid} does not answer at {silent.url} (yet); its log is {silent.log}"
    )


def _write(server: RunningServer | None) -> None:
    value = None
    if server is not None:
        value = {"url": server.url, "pid": server.pid, "log": server.log, "memory": server.memory}
        value["object_store"] = server.object_store
    click.echo(json.dumps(value, indent=2))
