"""Databricks asset bundles (`databricks.yml`) as project files.

    fields.py      the fields of a bundle and of its pipelines: read, ignored, refused
    document.py    YAML that remembers where each value stands; includes and targets merged
    variables.py   `${var.x}`, `${bundle.x}`, `${workspace.x}`, `${resources.x}`
    pipeline.py    one pipeline of a bundle, as plain data

Source of the fields: https://docs.databricks.com/aws/en/dev-tools/bundles/reference
"""
