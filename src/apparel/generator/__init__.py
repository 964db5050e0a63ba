"""The generator: four streams of realistic retail rows, each an append-only Delta table in the landing zone.

    settings.py   every rate, size and interval, with its default; a command line option for each
    model.py      the four streams: schemas, and how one realistic row is made
    dirt.py       deliberate defects, off by default, that exercise every rule of the pipeline
    landing.py    the Delta tables of the landing zone: append, and read back what is there
    ledger.py     what has been written so far, and commits that never collide
    batch.py      one batch in progress
    streams.py    the generator: batches, bulk loads and the loop

Importing this package imports none of them: `settings` is light, the others load pyarrow and delta-rs.
"""
