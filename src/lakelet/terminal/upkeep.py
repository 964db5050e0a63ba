"""The commands that look after a pipeline's storage: `state`, `repair`, `reset`, `maintain`."""

from __future__ import annotations

import sys
from typing import Any

import click

from lakelet.terminal.project_command import json_option, opened, project_options, write_json


@click.command()
@project_options
@click.argument("flow")
@json_option
def state(spec: str | None, storage: str | None, configuration: dict[str, str], flow: str, as_json: bool) -> None:
    """Show what a flow remembers between micro-batches: rows, bytes, watermark."""
    with opened(spec, storage, configuration) as (pipeline, out):
        reports = pipeline.state(flow)
        if as_json:
            write_json([report.to_dict() for report in reports], out)
            return
        for report in reports:
            out.write(f"{report.flow}: {report.operator}, {report.table}\n")
            out.write(f"  {report.rows} rows, {report.bytes} bytes in {report.files} files\n")
            out.write(f"  watermark {report.watermark or 'none'}, oldest entry until {report.oldest or 'for good'}\n")
        if not reports:
            out.write(f"{flow} remembers nothing\n")


@click.command()
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
    with opened(spec, storage, configuration) as (pipeline, out):
        found = pipeline.repair(dataset, drop_rows=drop_rows)
        if as_json:
            write_json([batch.to_dict() for batch in found], out)
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


@click.command()
@project_options
@click.argument("datasets", nargs=-1)
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    metavar="FLOW",
    help="Only the checkpoint of this flow: its table keeps its rows, and gets what the sources still have again. Repeatable.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Change nothing, show what would be reset.")
@json_option
@click.pass_context
def reset(
    ctx: click.Context,
    spec: str | None,
    storage: str | None,
    configuration: dict[str, str],
    datasets: tuple[str, ...],
    checkpoints: tuple[str, ...],
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Drop the tables of DATASETS with all that is remembered of them, so that the next update starts them anew."""
    from lakelet.terminal.upkeep_lines import reset_lines

    if not (datasets or checkpoints):
        raise click.UsageError("nothing to reset: name datasets, or flows with --checkpoint")
    with opened(spec, storage, configuration) as (pipeline, out):
        steps = pipeline.reset(*datasets, checkpoints=checkpoints, dry_run=True)
        if not dry_run:
            if not yes:
                click.echo("\n".join(reset_lines(steps)), err=True)
                if not _confirmed("Reset this?"):
                    click.echo("nothing was reset", err=True)
                    ctx.exit(1)
            steps = pipeline.reset(*datasets, checkpoints=checkpoints)
        if as_json:
            write_json({"dry_run": dry_run, "steps": [step.to_dict() for step in steps]}, out)
        else:
            out.write("\n".join(reset_lines(steps, done=not dry_run)) + "\n")


def _confirmed(question: str) -> bool:
    """Ask on stderr, so that stdout stays data."""
    click.echo(f"{question} [y/N] ", err=True, nl=False)
    answer = sys.stdin.readline()
    if not answer:
        raise click.UsageError("nobody can answer here: pass --yes to reset without asking")
    return answer.strip().lower() in ("y", "yes")


@click.command()
@project_options
@click.option(
    "--retention-hours",
    type=click.IntRange(min=0),
    default=168,
    show_default=True,
    help="Keep data files that a table dropped more recently than this.",
)
@click.option(
    "--log-retention-hours",
    type=click.IntRange(min=0),
    default=720,
    show_default=True,
    help="Keep commits in the tables' logs that are younger than this.",
)
@click.option(
    "--allow-short-retention",
    is_flag=True,
    help="Accept less than 168 hours; whoever reads the tables from outside just now may then fail.",
)
@click.option("--dry-run", is_flag=True, help="Change nothing, count what would be deleted.")
@json_option
def maintain(
    spec: str | None, storage: str | None, configuration: dict[str, str], as_json: bool, dry_run: bool, **hours: Any
) -> None:
    """Compact the pipeline's tables, and remove old files and commits that no flow needs any more."""
    from dataclasses import asdict

    from lakelet.terminal.upkeep_lines import maintained_line

    with opened(spec, storage, configuration) as (pipeline, out):
        done = pipeline.maintain(dry_run=dry_run, **hours)
        if as_json:
            write_json({"dry_run": dry_run, "tables": [asdict(table) for table in done]}, out)
            return
        for table in done:
            out.write(maintained_line(table, dry_run=dry_run) + "\n")
        if not done:
            out.write(f"{pipeline.spec.name} has no tables yet\n")
