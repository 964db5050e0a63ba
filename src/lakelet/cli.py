"""The command line: `lakelet run | dry-run | graph | query | events | state | repair | init | spark`.

Data goes to stdout, errors and logs to stderr; what the user's own files print goes to stderr, too. Commands import
what they need when they run, so that `lakelet --help` answers at once.

Exit codes: 0 done, 1 the update failed, 2 usage or definition error, 70 internal error, 130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, TypeVar

import click

from lakelet.errors import LakeletError, SpecError
from lakelet.terminal.command_group import INTERRUPTED, LakeletGroup
from lakelet.terminal.spark_commands import spark

if TYPE_CHECKING:
    from lakelet.events.model import PipelineEvent
    from lakelet.graph.dataflow_graph import DataflowGraph
    from lakelet.pipeline import Pipeline
    from lakelet.terminal.update_view import LiveView, PlainView

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group(cls=LakeletGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lakelet")
@click.option("--debug", is_flag=True, envvar="LAKELET_DEBUG", help="Show the traceback of an internal error.")
def cli(debug: bool) -> None:
    """Run declarative data pipelines, the files of Databricks and Apache Spark, without Databricks."""


# -- options


def _configuration(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    result = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not equals or not key.strip():
            raise click.BadParameter(f"`{value}` is not KEY=VALUE", ctx=ctx, param=param)
        result[key.strip()] = text
    return result


def _names(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name.strip() for value in values for name in value.split(",") if name.strip())


def project_options(command: Command) -> Command:
    """Add the options that say which pipeline."""
    options = (
        click.option(
            "--spec", metavar="PATH", help="Project file, or its folder. Default: here, or the nearest above."
        ),
        click.option("--storage", metavar="FOLDER", help="Folder of tables and state, instead of the project file's."),
        click.option(
            "--conf",
            "configuration",
            multiple=True,
            metavar="KEY=VALUE",
            callback=_configuration,
            help="Override a key of the project file's `configuration`. Repeatable.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON, and nothing else, to stdout.")


@contextmanager
def _opened(
    spec: str | None, storage: str | None, configuration: Mapping[str, str]
) -> Iterator[tuple[Pipeline, TextIO]]:
    """Open the pipeline; gives the real stdout, while what the user's files print goes to stderr."""
    from lakelet.pipeline import Pipeline

    out = sys.stdout
    with (
        redirect_stdout(sys.stderr),
        Pipeline(spec, storage=storage, configuration=configuration) as pipeline,
    ):
        yield pipeline, out


# -- run


@cli.command()
@project_options
@click.option(
    "--refresh",
    multiple=True,
    metavar="A,B",
    callback=_names,
    help="Only these datasets, incrementally. Repeatable.",
)
@click.option(
    "--full-refresh",
    multiple=True,
    metavar="A,B",
    callback=_names,
    help="Only these datasets, rebuilt from the start of their sources. Repeatable.",
)
@click.option("--full-refresh-all", is_flag=True, help="Rebuild every dataset.")
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
    continuous: bool,
    as_json: bool,
) -> None:
    """Bring the pipeline's tables up to date.

    Each dataset takes what is new since its last commit. One failure does not stop datasets that do not depend on it.
    With --json, stdout has one event a line, as the event log has them. The first Ctrl-C ends the update after the
    micro-batches under way, the second at once; nothing is lost or doubled by either.
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

    selection = RefreshSelection(refresh=refresh, full_refresh=full_refresh, full_refresh_all=full_refresh_all)
    stop = threading.Event()
    with _opened(spec, storage, configuration) as (pipeline, out), stopping_on_signals(stop) as interrupts:
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
    ctx.exit(INTERRUPTED if interrupts.count else result.exit_code)


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

    with _opened(spec, storage, configuration) as (pipeline, out):
        try:
            graph = pipeline.graph()
        except LakeletError as error:
            if not as_json:
                raise
            _write_json({"valid": False, "errors": errors_as_data(error)}, out)
            ctx.exit(error.exit_code)
        if as_json:
            _write_json({"valid": True, "errors": [], **formats.as_json(graph)}, out)
            return
        out.write(f"{pipeline.spec.name} is valid: {formats.summary(graph)}\n")
        if outside := formats.external_inputs(graph):
            out.write(f"reads from outside of the pipeline: {', '.join(outside)}\n")


@cli.command()
@project_options
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "mermaid", "json"]),
    default="text",
    show_default=True,
    help="mermaid: a flowchart for Markdown.",
)
@json_option
def graph(spec: str | None, storage: str | None, configuration: dict[str, str], form: str, as_json: bool) -> None:
    """Show the datasets and what each reads."""
    with _opened(spec, storage, configuration) as (pipeline, out):
        resolved = pipeline.graph()
        if as_json or form == "json":
            from lakelet.graph import formats

            _write_json({"pipeline": pipeline.spec.name, **formats.as_json(resolved)}, out)
        else:
            out.write(_graph_text(resolved, form) + "\n")


def _graph_text(resolved: DataflowGraph, form: str) -> str:
    from lakelet.graph import formats

    return formats.as_mermaid(resolved) if form == "mermaid" else formats.as_text(resolved)


# -- query, events


@cli.command()
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
    with _opened(spec, storage, configuration) as (pipeline, out):
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

    with _opened(spec, storage, configuration) as (pipeline, out):
        selected = event_lines.select(
            event_lines.from_table(pipeline.events()),
            update=update,
            level=level.upper() if level else None,
            dataset=dataset,
            event_type=event_type,
        )[-limit:]
        for event in selected:
            out.write((event_lines.as_json(event) if as_json else event_lines.as_text(event)) + "\n")


# -- state, repair


@cli.command()
@project_options
@click.argument("flow")
@json_option
def state(spec: str | None, storage: str | None, configuration: dict[str, str], flow: str, as_json: bool) -> None:
    """Show what a flow remembers between micro-batches: rows, bytes, watermark."""
    with _opened(spec, storage, configuration) as (pipeline, out):
        reports = pipeline.state(flow)
        if as_json:
            _write_json([report.to_dict() for report in reports], out)
            return
        for report in reports:
            out.write(f"{report.flow}: {report.operator}, {report.table}\n")
            out.write(f"  {report.rows} rows, {report.bytes} bytes in {report.files} files\n")
            out.write(f"  watermark {report.watermark or 'none'}, oldest entry until {report.oldest or 'for good'}\n")
        if not reports:
            out.write(f"{flow} remembers nothing\n")


@cli.command()
@project_options
@click.argument("dataset")
@click.option(
    "--drop-rows", is_flag=True, help="Finish the stuck batch without its invalid rows; the event log notes it."
)
@json_option
def repair(
    spec: str | None, storage: str | None, configuration: dict[str, str], dataset: str, drop_rows: bool, as_json: bool
) -> None:
    """Show the batches that a dataset cannot finish, and step over invalid rows with --drop-rows."""
    with _opened(spec, storage, configuration) as (pipeline, out):
        found = pipeline.repair(dataset, drop_rows=drop_rows)
        if as_json:
            _write_json([batch.to_dict() for batch in found], out)
            return
        for batch in found:
            begun = f"{batch.batch.at:%Y-%m-%d %H:%M:%S}Z"
            out.write(f"{batch.dataset}: batch {batch.batch.id} of flow `{batch.flow}`, begun {begun}\n")
            if batch.error is None:
                out.write("  nothing is wrong with it; the next update finishes it\n")
            elif batch.stepped_over:
                out.write(f"  finished without its invalid rows ({batch.error.message})\n")
            else:
                out.write("\n".join(f"  {line}" for line in batch.error.render().splitlines()) + "\n")
        if not found:
            out.write(f"no flow of {dataset} has an unfinished batch\n")


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
        _write_json({"name": name, "folder": str(target), "files": [str(file) for file in files]}, sys.stdout)
        return
    for file in files:
        click.echo(f"wrote {file}")
    click.echo(f"\nnext: cd {target} && lakelet run")


# -- spark

cli.add_command(spark)


# -- entry


def _write_json(value: Any, out: TextIO) -> None:
    out.write(json.dumps(value, default=str, indent=2, ensure_ascii=False) + "\n")


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
