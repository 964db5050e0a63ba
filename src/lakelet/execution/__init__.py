"""Updates: from a resolved graph to tables that are up to date."""

import lakelet.plan  # noqa: F401 - before pyspark: it mends an import under `python -c`
