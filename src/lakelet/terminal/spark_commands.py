"""`lakelet spark up | down | status`: a Spark Connect server with Delta Lake on this machine."""

from __future__ import annotations

import json

import click

from lakelet.engine.spark_server import DEFAULT_PORT, RunningServer


@click.group()
def spark() -> None:
    """Start and stop a local Apache Spark for `lakelet.engine: sc://…`."""


json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON, and nothing else, to stdout.")


@spark.command()
@click.option(
    "--port", type=click.IntRange(1, 65535), default=DEFAULT_PORT, show_default=True, help="Where it listens."
)
@click.option("--memory", default="2g", show_default=True, help="Memory of the server, as Java writes it.")
@json_option
def up(port: int, memory: str, as_json: bool) -> None:
    """Start the server; the first time, download Spark (450 MB) and Delta Lake. Needs Java 17."""
    from lakelet.engine import spark_server

    server = spark_server.up(port=port, memory=memory, say=lambda text: click.echo(text, err=True))
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
    click.echo("no server runs" if server is None else f"{server.url}, process {server.pid}, log {server.log}")


def _write(server: RunningServer | None) -> None:
    value = None if server is None else {"url": server.url, "pid": server.pid, "log": server.log}
    click.echo(json.dumps(value, indent=2))
