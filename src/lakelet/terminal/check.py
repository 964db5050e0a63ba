"""The command `check`: what a pipeline uses that another platform lacks."""

from __future__ import annotations

import click

from lakelet.terminal.project_command import json_option, opened, project_options, write_json


@click.command()
@project_options
@click.option(
    "--target",
    "platform",
    type=click.Choice(["databricks", "spark"]),
    required=True,
    help="databricks, or spark: Apache Spark's own pipelines.",
)
@json_option
@click.pass_context
def check(
    ctx: click.Context,
    spec: str | None,
    storage: str | None,
    configuration: dict[str, str],
    platform: str,
    as_json: bool,
) -> None:
    """Say which features of the pipeline another platform lacks, with file and line.

    Ends with exit code 1 if there is one.
    """
    with opened(spec, storage, configuration) as (pipeline, out):
        lacking = pipeline.missing_on(platform)
        if as_json:
            write_json(
                {"target": platform, "portable": not lacking, "lacking": [use.to_dict() for use in lacking]}, out
            )
        else:
            for use in lacking:
                known = use.to_dict()
                out.write(f"{use.origin}: {known['text']}; {known['instead']}\n")
            out.write(f"{pipeline.spec.name}: {len(lacking) or 'nothing'} that {platform} lacks\n")
    if lacking:
        ctx.exit(1)
