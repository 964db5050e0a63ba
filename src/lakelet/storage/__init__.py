import lakelet.plan  # noqa: F401 - before pyspark: it mends an import under `python -c`
