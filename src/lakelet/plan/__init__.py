"""Plans as data: the trees of Spark Connect relations that query functions return."""

import sys


def _import_client_without_a_main_file() -> None:
    """Import the Spark Connect client where `__main__` has no file, as under `python -c`.

    pyspark 4.2 takes such a process for its own doctests, and ends it if it finds no Spark installation.
    """
    main = sys.modules["__main__"]
    if main.__spec__ is None and not hasattr(main, "__file__") and not hasattr(sys, "ps1"):
        main.__file__ = "<string>"
        try:
            import pyspark.sql.connect  # noqa: F401
        finally:
            del main.__file__


_import_client_without_a_main_file()
