"""The command line: `lakelet run | dry-run | check | export | graph | query | events | explain | state | repair | reset
| maintain | ui | init | spark`.

Data goes to stdout, errors and logs to stderr; what the user's own files print goes to stderr, too. Commands import
what they need when they run, so that `lakelet --help` answers at once.

Exit codes: 0 done, 1 the update failed, 2 usage or definition error, 70 internal error, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import click

from lakelet.errors import LakeletError, SpecError
from lakelet.terminal.check import check
from lakelet.terminal.command_group import INTERRUPTED, LakeletGroup, SqlCommand
from lakelet.terminal.export import export
from lakelet.terminal.project_command import json_option, names_of, opened, project_options, server_options, write_json
from lakelet.terminal.serve import serve
from lakelet.terminal.spark_commands import spark
from lakelet.terminal.upkeep import maintain, repair, reset, state

if TYPE_CHECKING:
    from lakelet.events.model import PipelineEvent
    from lakelet.graph.dataflow_graph import DataflowGraph
    from lakelet.terminal.update_view import LiveView, PlainView


@click.group(cls=LakeletGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lakelet")
@click.option("--debug", is_flag=True, envvar="LAKELET_DEBUG", help="Show the traceback of an internal error.")
def cli(debug: bool) -> None:
    """Run declarative data pipelines, the files of Databricks and Apache Spark, without Databricks."""


# -- run


@cli.command()
@project_options
@click.option(
    "--refresh",
    multiple=True,
    metavar="A,B",
    callback=names_of,
    help="Only these datasets, incrementally. Repeatable.",
)
@click.option(
    "--full-refresh",
    multiple=True,
    metavar="A,B",
    callback=names_of,
    help="Only these datasets, rebuilt from the start of their sources. Repeatable.",
)
@click.option("--full-refresh-all", is_flag=True, help="Rebuild every dataset.")
@click.option(
    "--reset-checkpoint",
    multiple=True,
    metavar="FLOW",
    callback=names_of,
    help="Let a flow read its sources from the start; its table keeps the rows that it has, and gets them again. Repeatable.",
)
@click.option("--continuous", is_flag=True, help="Keep running as data arrives, until Ctrl-C.")
@json_option
@click.pass_context
def run(
    ctx: click.Context,
    spec: str | None,
    storage: str | None,
    configuration: dict[str, str],
    refresh: tuple[str, ...],
    full_refresh: tuple[str, ...],
    full_refresh_all: bool,
    reset_checkpoint: tuple[str, ...],
    continuous: bool,
    as_json: bool,
) -> None:
    """Bring the pipeline's tables up to date.

    Each dataset takes what is new since its last commit. One failure does not stop datasets that do not depend on it.
    With --json, stdout has one event a line, as the event log has them. The first Ctrl-C ends the update after the
    micro-batches under way, without those that take longer than `lakelet.stop.timeout`; the second at once. Nothing is
    lost or doubled by either.

    With --continuous, a flow that fails is tried again, after 1, 2, 4, … 60 seconds, while what reads it waits and the
    rest goes on. Ctrl-C then ends with exit code 130, or 1 if a flow is failing.
    """
    import threading

    if full_refresh_all and (refresh or full_refresh):
        raise SpecError(
            "CONFLICTING_PIPELINE_REFRESH_OPTIONS",
            "`--full-refresh-all` was given together with a list of datasets",
            hint="give either the list or `--full-refresh-all`",
        )

    from lakelet.pipeline import RefreshSelection
    from lakelet.terminal.interrupts import stopping_on_signals
    from lakelet.terminal.update_view import render_failures

    selection = RefreshSelection(
        refresh=refresh,
        full_refresh=full_refresh,
        full_refresh_all=full_refresh_all,
        reset_checkpoint=reset_checkpoint,
    )
    stop = threading.Event()
    with opened(spec, storage, configuration) as (pipeline, out), stopping_on_signals(stop) as interrupts:
        if as_json:
            result = pipeline.run(
                selection=selection, continuous=continuous, subscribers=(_json_lines(out),), stop=stop
            )
        else:
            with _view(out) as view:
                result = pipeline.run(selection=selection, continuous=continuous, subscribers=(view,), stop=stop)
    failures = render_failures(result)
    if failures:
        click.echo(failures if as_json else f"\n{failures}", err=True)
    ctx.exit(INTERRUPTED if interrupts.count and not result.errors else result.exit_code)


def _json_lines(out: TextIO) -> Callable[[PipelineEvent], None]:
    from lakelet.terminal.pipes import write_line

    def write(event: PipelineEvent) -> None:
        write_line(event.to_json(), out)

    return write


def _view(out: TextIO) -> LiveView | PlainView:
    from lakelet.terminal.update_view import LiveView, PlainView

    if not out.isatty() or os.environ.get("TERM") == "dumb":
        return PlainView(out, sys.stderr)
    from rich.console import Console

    return LiveView(Console(file=out))


# -- dry-run, graph


@cli.command("dry-run")
@project_options
@json_option
@click.pass_context
def dry_run(
    ctx: click.Context, spec: str | None, storage: str | None, configuration: dict[str, str], as_json: bool
) -> None:
    """Check everything that can be checked without reading or writing data."""
    from lakelet.graph import formats
    from lakelet.terminal.error_data import errors_as_data

    with opened(spec, storage, configuration) as (pipeline, out):
        try:
            graph = pipeline.graph()
        except LakeletError as error:
            if not as_json:
                raise
            write_json({"valid": False, "errors": errors_as_data(error)}, out)
            ctx.exit(error.exit_code)
        if as_json:
            write_json({"valid": True, "errors": [], **formats.as_json(graph)}, out)
            return
        out.write(f"{pipeline.spec.name} is valid: {formats.summary(graph)}\n")
        if outside := formats.external_inputs(graph):
            out.write(f"reads from outside of the pipeline: {', '.join(outside)}\n")


@cli.command()
@project_options
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "mermaid", "svg", "json"]),
    default="text",
    show_default=True,
    help="mermaid: a flowchart for Markdown; svg: a picture.",
)
@json_option
def graph(spec: str | None, storage: str | None, configuration: dict[str, str], form: str, as_json: bool) -> None:
    """Show the datasets and what each reads."""
    with opened(spec, storage, configuration) as (pipeline, out):
        resolved = pipeline.graph()
        if as_json or form == "json":
            from lakelet.graph import formats

            write_json({"pipeline": pipeline.spec.name, **formats.as_json(resolved)}, out)
        else:
            out.write(_graph_text(resolved, form) + "\n")


def _graph_text(resolved: DataflowGraph, form: str) -> str:
    from lakelet.graph import formats

    if form == "svg":
        from lakelet.graph.drawing import as_svg

        return as_svg(resolved)
    return formats.as_mermaid(resolved) if form == "mermaid" else formats.as_text(resolved)


# -- query, events


@cli.command(cls=SqlCommand)
@project_options
@click.argument("sql")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json"]),
    default="table",
    show_default=True,
    help="json: an array of objects.",
)
@click.option("--limit", type=click.IntRange(min=0), help="Rows at most. Default: 100 of a table, all of csv and json.")
@json_option
def query(
    spec: str | None,
    storage: str | None,
    configuration: dict[str, str],
    sql: str,
    form: str,
    limit: int | None,
    as_json: bool,
) -> None:
    """Run a SQL query over the pipeline's tables, and over `event_log`."""
    with opened(spec, storage, configuration) as (pipeline, out):
        rows = pipeline.query(sql)
        from lakelet.terminal import rows as row_formats

        if as_json or form == "json":
            row_formats.write_json(rows if limit is None else rows.slice(0, limit), out)
        elif form == "csv":
            row_formats.write_csv(rows if limit is None else rows.slice(0, limit), out)
        else:
            row_formats.write_table(rows, out, limit=limit)


@cli.command()
@project_options
@click.option("--update", metavar="ID", help="Only this update: the beginning of its id, or `latest`.")
@click.option(
    "--level",
    type=click.Choice(["METRICS", "INFO", "WARN", "ERROR"], case_sensitive=False),
    help="Only events of this level and above.",
)
@click.option("--dataset", metavar="NAME", help="Only events of this dataset.")
@click.option("--type", "event_type", metavar="TYPE", help="Only events of this type, such as flow_progress.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="The last so many events.")
@json_option
def events(
    spec: str | None,
    storage: str | None,
    configuration: dict[str, str],
    update: str | None,
    level: str | None,
    dataset: str | None,
    event_type: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Show the event log, oldest first."""
    from lakelet.terminal import event_lines

    with opened(spec, storage, configuration) as (pipeline, out):
        selected = event_lines.select(
            event_lines.from_table(pipeline.events()),
            update=update,
            level=level.upper() if level else None,
            dataset=dataset,
            event_type=event_type,
        )[-limit:]
        for event in selected:
            out.write((event_lines.as_json(event) if as_json else event_lines.as_text(event)) + "\n")
    if not selected:
        click.echo("no events match", err=True)


# -- explain


@cli.command()
@project_options
@click.argument("dataset")
@json_option
def explain(spec: str | None, storage: str | None, configuration: dict[str, str], dataset: str, as_json: bool) -> None:
    """Show how the next update refreshes a materialized view, and why."""
    with opened(spec, storage, configuration) as (pipeline, out):
        explanation = pipeline.explain(dataset)
        if as_json:
            write_json(explanation.to_dict(), out)
        else:
            out.write(explanation.render() + "\n")


for _command in (check, export, state, repair, reset, maintain, serve):
    cli.add_command(_command)


# -- ui


@cli.command()
@project_options
@server_options
@json_option
def ui(
    spec: str | None,
    storage: str | None,
    configuration: dict[str, str],
    host: str,
    port: int,
    token: str | None,
    allowed_hosts: tuple[str, ...],
    as_json: bool,
) -> None:
    """Serve the pipeline's page: its graph live, its datasets, updates, rules and events, and SQL.

    Updates are started and stopped there; one that runs in another process is shown as it runs. Until Ctrl-C.
    """
    from lakelet.web.server import Address, serve

    with opened(spec, storage, configuration) as (pipeline, out):

        def ready(address: Address, site: object) -> None:
            if as_json:
                write_json({"pipeline": pipeline.spec.name, "url": address.url}, out)
            else:
                out.write(f"{pipeline.spec.name}: {address.url} (Ctrl-C ends it)\n")
            out.flush()

        serve(pipeline, host=host, port=port, token=token, allowed_hosts=allowed_hosts, ready=ready)


# -- init


@cli.command()
@click.option("--name", required=True, help="Name of the pipeline.")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write to. Default: NAME.",
)
@json_option
def init(name: str, folder: Path | None, as_json: bool) -> None:
    """Write a small project that runs at once."""
    from lakelet.scaffold import write_project

    target = folder if folder is not None else Path(name)
    files = write_project(target, name=name)
    if as_json:
        write_json({"name": name, "folder": str(target), "files": [str(file) for file in files]}, sys.stdout)
        return
    for file in files:
        click.echo(f"wrote {file}")
    click.echo(f"\nnext: cd {target} && lakelet run")


# -- spark

cli.add_command(spark)


# -- entry


def main() -> NoReturn:
    """Entry point of the `lakelet` command."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 shows `?`, and no command fails for it
    code: Any = 0
    try:
        cli(prog_name="lakelet")
    except SystemExit as end:
        code = end.code
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at its exit, and would report the closed pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


if __name__ == "__main__":
    main()
