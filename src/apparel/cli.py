"""The `apparel` command: generate data, and operate the storage it lands in.

Data goes to stdout, messages to stderr. Exit codes: 0 done, 1 failed, 2 usage, 130 interrupted, 143
terminated. Commands import what they need when they run, so that `apparel --help` answers at once.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from apparel.generator.settings import BulkSettings, Dirt, GeneratorSettings
from apparel.options import (
    ClockType,
    given_options,
    json_option,
    setting_values,
    settings_options,
    storage_option,
)
from lakelet.errors import LakeletError
from lakelet.terminal.project_command import server_options

if TYPE_CHECKING:
    from apparel.generator.clock import Stop
    from apparel.generator.streams import WrittenBatch
    from lakelet.web import Address, Site

INTERRUPTED = 130
# A seeded bulk load without --clock ends here, so that the seed alone decides its rows.
BULK_END = datetime(2026, 1, 1, tzinfo=UTC)


class ApparelGroup(click.Group):
    """A group that shows errors as users of lakelet know them, and exits with their code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; an error is one block on stderr, never a traceback."""
        try:
            return super().invoke(ctx)
        except LakeletError as error:
            click.echo(error.render(), err=True)
            ctx.exit(error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)


@click.group(cls=ApparelGroup, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """The apparel retailer: write data to its landing zone, and look after its storage."""


@cli.command()
@storage_option
@json_option
@click.option("--batches", type=click.IntRange(min=0), help="Stop after this many batches; default: never.")
@click.option(
    "--clock",
    "clock_start",
    type=ClockType(),
    help="Pretend that the first batch is written at this time and each next one an interval later.",
)
@settings_options(GeneratorSettings)
@click.option("--bulk-sales", type=click.IntRange(min=1), help="Bulk mode: write this many sales, then stop.")
@settings_options(BulkSettings, without=("sales",))
@settings_options(Dirt)
def generate(
    storage: Path,
    as_json: bool,
    batches: int | None,
    clock_start: datetime | None,
    bulk_sales: int | None,
    **options: Any,
) -> None:
    """Write batches of sales, customers, products and stores to the landing zone until stopped.

    A restart resumes where the last run ended, whatever ended it. The same --seed and --clock on an empty
    landing zone give the same rows. Bulk mode spreads many sales over the last days, for load tests.
    """
    if bulk_sales and batches is not None:
        raise click.UsageError("--batches and --bulk-sales exclude each other")
    if not bulk_sales and (given := given_options(BulkSettings)):
        raise click.UsageError(f"{given[0]} needs --bulk-sales")
    dirt = Dirt(**setting_values(Dirt, options))
    settings = GeneratorSettings(**setting_values(GeneratorSettings, options), dirt=dirt)
    bulk = BulkSettings(**setting_values(BulkSettings, options), sales=bulk_sales or 0)

    from apparel.generator.batch import StoppedError
    from apparel.generator.clock import SteppingClock, Stop, utc_now
    from apparel.generator.landing import DeltaLanding
    from apparel.generator.streams import Generator, run

    if bulk_sales and settings.seed is not None:
        clock_start = clock_start or BULK_END
    clock = SteppingClock(clock_start, step_seconds=settings.interval_seconds) if clock_start else utc_now
    stop = Stop()
    with _stopping_on_signals(stop):
        generator = Generator(settings, DeltaLanding(storage), clock=clock)
        if bulk_sales:
            written = _in_background(generator.write_bulk(bulk, stop=stop))
        else:
            written = run(generator, stop=stop, batches=batches)
        try:
            for batch in written:
                click.echo(_batch_json(batch) if as_json else _batch_line(batch))
                if stop.requested:
                    break
        except StoppedError:
            pass
    if stop.signal_number is not None:
        click.echo(f"stopped; the next run continues with transaction {generator.next_transaction_id}", err=True)
        click.get_current_context().exit(128 + stop.signal_number)


@cli.command()
@storage_option
@click.option("--batches", type=click.IntRange(min=1), default=5, show_default=True, help="Batches to generate.")
@click.option("--interval", type=click.FloatRange(min=0), default=2.0, show_default=True, help="Seconds between them.")
@click.option("--keep-running", is_flag=True, help="Generate a batch every 30 s until Ctrl-C.")
@click.option("--seed", type=int, help="Generate the same rows again.")
@click.option("--ui", "with_pages", is_flag=True, help="Show it in the browser, live, until Ctrl-C.")
@click.option("--port", type=click.IntRange(0, 65535), default=4040, show_default=True, help="Port of --ui.")
def demo(
    storage: Path, batches: int, interval: float, keep_running: bool, seed: int | None, with_pages: bool, port: int
) -> None:
    """Watch it: generate sales, run the pipeline beside the generator, then show gold tables, rules and health."""
    import threading

    if with_pages:
        from apparel.demo import serve_demo

        serve_demo(
            storage,
            batches=None if keep_running else batches,
            interval_seconds=30.0 if keep_running else interval,
            seed=seed,
            port=port,
            say=click.echo,
        )
        return

    from apparel.demo import run_demo
    from lakelet.terminal.interrupts import stopping_on_signals
    from lakelet.terminal.update_view import render_failures, view_for

    stop = threading.Event()
    with stopping_on_signals(stop) as interrupts:
        result = run_demo(
            storage,
            batches=None if keep_running else batches,
            interval_seconds=30.0 if keep_running else interval,
            seed=seed,
            view=lambda: view_for(sys.stdout),
            stop=stop,
        )
    if result.errors:
        click.echo(render_failures(result), err=True)
    click.echo("\nHealth")
    click.get_current_context().invoke(health, storage=storage, as_json=False)
    if interrupts.count and not keep_running:
        click.get_current_context().exit(130)
    click.get_current_context().exit(1 if result.errors else 0)


@cli.command()
@storage_option
@json_option
@server_options
def dashboard(
    storage: Path, as_json: bool, host: str, port: int, token: str | None, allowed_hosts: tuple[str, ...]
) -> None:
    """Serve the retailer's dashboard and the pipeline's page, until Ctrl-C."""
    from apparel.dashboard import FIRST, PAGES
    from apparel.demo import PIPELINE
    from lakelet import Pipeline
    from lakelet.web import serve

    def ready(address: Address, site: Site) -> None:
        if as_json:
            _print_json({"storage": storage, "url": address.url})
        else:
            click.echo(f"apparel: {address.url} (Ctrl-C ends it)")
        sys.stdout.flush()

    with Pipeline(PIPELINE, storage=storage) as pipeline:
        serve(
            pipeline,
            host=host,
            port=port,
            token=token,
            allowed_hosts=allowed_hosts,
            pages=PAGES,
            first=FIRST,
            ready=ready,
        )


@cli.command()
@storage_option
@json_option
def setup(storage: Path, as_json: bool) -> None:
    """Create catalog, schemas, volume and landing folders; what exists stays as it is."""
    from apparel import operations

    places = operations.setup(storage)
    if as_json:
        _print_json({"storage": storage, "places": [asdict(place) for place in places]})
        return
    for place in places:
        click.echo(f"{'created' if place.created else 'exists ':7}  {place.kind:8} {place.name}")


@cli.command("list")
@storage_option
@json_option
def list_command(storage: Path, as_json: bool) -> None:
    """List what the generator wrote to each stream."""
    from apparel import operations

    listings = operations.list_written(storage)
    if as_json:
        _print_json({"storage": storage, "streams": [asdict(listing) for listing in listings]})
        return
    click.echo(_row("stream", "rows", "versions", "files", "bytes", "first", "last"))
    for listing in listings:
        first, last = ("-" if at is None else f"{at:%Y-%m-%d %H:%M:%S}" for at in (listing.first_at, listing.last_at))
        click.echo(
            _row(
                listing.stream,
                f"{listing.rows:,}",
                f"{listing.versions:,}",
                f"{listing.files:,}",
                f"{listing.size_bytes:,}",
                first,
                last,
            )
        )


@cli.command()
@storage_option
@json_option
def health(storage: Path, as_json: bool) -> None:
    """Count the rows of each stream, and the sales that reference an id which no dimension row has."""
    from apparel import operations

    report = operations.health(storage)
    if as_json:
        _print_json({"storage": storage, **asdict(report)})
        return
    click.echo(_row("stream", "rows"))
    for stream, rows in report.rows.items():
        click.echo(_row(stream, f"{rows:,}"))
    click.echo()
    click.echo(_row("sales by", "orphans", "NULL"))
    for key in report.foreign_keys:
        click.echo(_row(key.foreign_key, f"{key.orphans:,}", f"{key.nulls:,}"))


@cli.command()
@storage_option
@json_option
@click.option(
    "--retention-hours",
    type=click.IntRange(min=0),
    default=168,
    show_default=True,
    help="Keep files that a table dropped more recently than this.",
)
@click.option(
    "--allow-short-retention",
    is_flag=True,
    help="Accept less than 168 hours; readers outside of this pipeline and running writers may then fail.",
)
@click.option("--dry-run", is_flag=True, help="Change nothing, count what vacuum would delete.")
def maintain(storage: Path, as_json: bool, retention_hours: int, allow_short_retention: bool, dry_run: bool) -> None:
    """Compact and vacuum the landing tables and the pipeline's tables."""
    from apparel import operations

    tables = operations.maintain(
        storage,
        retention_hours=retention_hours,
        allow_short_retention=allow_short_retention,
        dry_run=dry_run,
    )
    if as_json:
        _print_json({"storage": storage, "dry_run": dry_run, "tables": [asdict(table) for table in tables]})
        return
    for table in tables:
        verb = "would delete" if dry_run else "deleted"
        done = f"{table.files_before} → {table.files_after} files, vacuum {verb} {table.vacuumed_files}"
        click.echo(f"{table.table}: {f'skipped, {table.skipped}' if table.skipped else done}")


@cli.command()
@storage_option
@json_option
@click.option("--tables", is_flag=True, help="Drop the pipeline's tables, checkpoints and event log.")
@click.option("--landing", is_flag=True, help="Clear the landing zone.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def reset(storage: Path, as_json: bool, tables: bool, landing: bool, yes: bool) -> None:
    """Drop the pipeline's tables, clear the landing zone, or both."""
    if not (tables or landing):
        raise click.UsageError("nothing to reset: pass --tables, --landing or both")
    import apparel.reset as resetting

    plan = resetting.plan_reset(storage, tables=tables, landing=landing)
    for doomed in plan:
        click.echo(f"{doomed.path}: {doomed.files:,} files, {doomed.size_bytes:,} bytes", err=True)
    if plan and not yes and not _confirmed("Remove all of this?"):
        click.echo("nothing removed", err=True)
        click.get_current_context().exit(1)
    resetting.reset(storage, plan)
    if as_json:
        _print_json({"storage": storage, "removed": [asdict(doomed) for doomed in plan]})
    else:
        click.echo(f"removed {sum(doomed.files for doomed in plan):,} files")
    if landing and not tables:
        click.echo("the pipeline's tables still hold the old rows; `apparel reset --tables` drops them", err=True)


def main() -> None:
    """Run the command line; the console script's entry point."""
    try:
        cli()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


@contextmanager
def _stopping_on_signals(stop: Stop) -> Iterator[None]:
    """Let SIGINT and SIGTERM end the run after the commit in progress; a second one ends it at once."""

    def handle(number: int, frame: object) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.request(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_background(batches: Iterator[WrittenBatch]) -> Iterator[WrittenBatch]:
    """Write batches in another thread, since a signal handler cannot run while delta-rs holds this one."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        while True:
            batch = pool.submit(next, batches, None)
            while not wait([batch], timeout=0.1).done:
                pass
            if (written := batch.result()) is None:
                return
            yield written


def _confirmed(question: str) -> bool:
    """Ask on stderr, so that stdout stays data."""
    click.echo(f"{question} [y/N] ", err=True, nl=False)
    answer = sys.stdin.readline()
    if not answer:
        raise click.UsageError("nobody can answer here: pass --yes to remove without asking")
    return answer.strip().lower() in ("y", "yes")


def _batch_line(batch: WrittenBatch) -> str:
    parts = []
    for stream, rows in reversed(batch.rows.items()):
        first = batch.bootstrapped.get(stream, 0)
        parts.append(f"{stream} {rows:,}" + (f" ({first:,} to start with)" if first else ""))
    return f"batch {batch.number}  {batch.at:%Y-%m-%d %H:%M:%S}Z  {'  '.join(parts)}  {batch.duration_ms:.0f} ms"


def _batch_json(batch: WrittenBatch) -> str:
    return json.dumps(asdict(batch), default=_plain)


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, default=_plain, indent=2))


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _row(first: str, *rest: str) -> str:
    return f"{first:12}" + "".join(f"{cell:>14}" if len(cell) < 15 else f"  {cell}" for cell in rest)


if __name__ == "__main__":
    main()
