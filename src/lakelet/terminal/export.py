"""The command `export`: the pipeline as a project of another platform."""

from __future__ import annotations

from pathlib import Path

import click

from lakelet.terminal.project_command import json_option, opened, project_options, write_json


@click.command()
@project_options
@click.option("--databricks", is_flag=True, required=True, help="A bundle: `databricks.yml` and its resources.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write to. Default: the project file's.",
)
@click.option("--force", is_flag=True, help="Overwrite what is there.")
@json_option
def export(
    spec: str | None,
    storage: str | None,
    configuration: dict[str, str],
    databricks: bool,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write a Databricks bundle for the pipeline, with the schemas and volumes that it uses.

    The pipeline's files stay where they are. Settings of lakelet are left out.
    """
    with opened(spec, storage, configuration) as (pipeline, out):
        files = pipeline.export_bundle(output, force=force)
        if as_json:
            write_json({"files": [str(file) for file in files]}, out)
        else:
            out.write("".join(f"wrote {file}\n" for file in files))
