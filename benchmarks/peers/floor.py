"""The floor: DuckDB for the queries, delta-rs for the commits, no framework.

Written by hand for these tables alone. It keeps change events, histories and facts in a DuckDB file beside the Delta
tables and has no recovery: a kill in the middle leaves it wrong. What it costs is what the work itself costs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb
import protocol
import specification as spec
from deltalake import DeltaTable, write_deltalake


class Floor:
    """All tables, one batch at a time."""

    def __init__(self, landing: Path, out: Path) -> None:
        self._landing = landing
        self._out = out
        self._seen = dict.fromkeys(spec.STREAMS, -1)
        out.mkdir(parents=True, exist_ok=True)
        self._db = duckdb.connect(str(out / "floor.duckdb"))
        self._db.execute("SET TimeZone = 'UTC'; SET preserve_insertion_order = false; SET memory_limit = '2GB'")
        for name in spec.KEYS:
            kinds = ", ".join(f"{column} {_kind(kind)}" for column, kind in spec.columns(name))
            self._db.execute(f"CREATE TABLE events_{name} ({kinds})")
            self._db.execute(f"CREATE TABLE history_{name} AS {spec.history(name, f'events_{name}')}")
        self._has_facts = False

    def step(self) -> protocol.Rules:
        """Bring every table up to date with what has landed."""
        rules: protocol.Rules = {}
        for name, folder in spec.STREAMS.items():
            if self._bronze(name, folder):
                self._count(rules, f"{name}_cleaned_stream", f"arrived_{name}", spec.rules_of(name))
                if name == "sales":
                    self._facts(rules)
                else:
                    self._history(name)
        if self._has_facts:
            for table, query in spec.gold("facts").items():
                self._write(table, query, mode="overwrite")
        return rules

    def _bronze(self, name: str, folder: str) -> bool:
        files, self._seen[name] = protocol.landed_files(self._landing, folder, self._seen[name])
        if not files:
            return False
        self._db.execute(
            f"CREATE OR REPLACE TEMP TABLE landed AS SELECT {spec.typed(name)}, now() AS ingest_timestamp, "
            f"'file://' || filename AS source_file_path FROM read_parquet({files!r}, filename = true)"
        )
        (broken,) = self._one(f"SELECT count(*) FROM landed WHERE NOT ({spec.all_of(spec.MUST[name])})")
        if broken:
            raise SystemExit(f"bronze_{name}: {broken} rows without an id")
        self._write(f"bronze_{name}", "SELECT * FROM landed")
        more = {
            "stores": "* REPLACE (coalesce(manager, 'Unknown') AS manager)",
            "sales": "*, CAST(event_time AS DATE) AS date",
        }
        self._db.execute(f"CREATE OR REPLACE TEMP TABLE arrived_{name} AS SELECT {more.get(name, '*')} FROM landed")
        return True

    def _history(self, name: str) -> None:
        key = spec.KEYS[name]
        names = ", ".join(column for column, _ in spec.columns(name))
        kept = spec.all_of(spec.DROP[name])
        self._db.execute(f"INSERT INTO events_{name} SELECT {names} FROM arrived_{name} WHERE {kept}")
        self._db.execute(
            f"CREATE OR REPLACE TEMP TABLE touched AS SELECT * FROM events_{name} WHERE {key} IN "
            f"(SELECT {key} FROM arrived_{name} WHERE {kept})"
        )
        self._db.execute(f"CREATE OR REPLACE TEMP TABLE now_{name} AS {spec.history(name, 'touched')}")
        self._db.execute(
            f"CREATE OR REPLACE TEMP TABLE before AS SELECT * FROM history_{name} WHERE {key} IN (SELECT {key} FROM now_{name})"
        )
        changes = (
            f"SELECT *, 'U' AS op FROM (SELECT * FROM now_{name} EXCEPT SELECT * FROM before) UNION ALL "
            f"SELECT b.*, 'D' FROM before b ANTI JOIN now_{name} n ON b.{key} = n.{key} AND b.__START_AT = n.__START_AT"
        )
        target = self._out / f"silver_{name}"
        if not target.exists():
            self._write(f"silver_{name}", f"SELECT * FROM now_{name}")
        else:
            rows = self._db.sql(changes).to_arrow_table()
            values = {c: f"s.{c}" for c in rows.column_names if c != "op"}
            merge = DeltaTable(str(target)).merge(
                rows, f"t.{key} = s.{key} AND t.__START_AT = s.__START_AT", source_alias="s", target_alias="t"
            )
            merge = merge.when_matched_delete("s.op = 'D'").when_matched_update(values, "s.op = 'U'")
            merge.when_not_matched_insert(values, "s.op = 'U'").execute()
        self._db.execute(f"DELETE FROM history_{name} WHERE {key} IN (SELECT {key} FROM now_{name})")
        self._db.execute(f"INSERT INTO history_{name} SELECT * FROM now_{name}")

    def _facts(self, rules: protocol.Rules) -> None:
        kept = spec.all_of(spec.FACT_DROP)
        for table, sign in (("silver_sales_transactions", ">"), ("silver_returns_transactions", "<")):
            self._count(rules, table, f"(SELECT * FROM arrived_sales WHERE quantity {sign} 0)", spec.FACT_DROP)
        sold = f"(SELECT * FROM arrived_sales WHERE quantity > 0 AND {kept})"
        self._write("silver_sales_transactions", f"SELECT * FROM {sold}")
        self._write(
            "silver_returns_transactions",
            f"SELECT * EXCLUDE (quantity, total_amount), {spec.RETURNED} FROM arrived_sales WHERE quantity < 0 AND {kept}",
        )
        query = spec.denormalized(sold, "(SELECT * FROM history_{} WHERE __END_AT IS NULL)")
        self._db.execute(f"CREATE OR REPLACE TEMP TABLE new_facts AS {query}")
        self._write("denormalized_sales_facts", "SELECT * FROM new_facts")
        verb = "INSERT INTO facts" if self._has_facts else "CREATE TABLE facts AS"
        self._db.execute(f"{verb} SELECT * FROM new_facts")
        self._has_facts = True

    def _write(self, table: str, query: str, *, mode: str = "append") -> None:
        """Commit the rows of a query; checkpoints of the log every 10 commits keep appends fast."""
        rows = self._db.sql(query).to_arrow_reader(100_000)
        write_deltalake(
            str(self._out / table),
            rows,
            mode=mode,
            schema_mode="overwrite" if mode == "overwrite" else None,
            configuration={"delta.checkpointInterval": "10"},
        )

    def _count(self, rules: protocol.Rules, name: str, rows: str, checks: dict[str, str]) -> None:
        values = self._one(f"SELECT {spec.counts(checks)} FROM {rows}")
        rules[name] = dict(zip(["num_rows", *checks], values, strict=True))

    def _one(self, sql: str) -> tuple[int, ...]:
        (row,) = self._db.execute(sql).fetchall()
        return row


def _kind(kind: str) -> str:
    return {"timestamp": "TIMESTAMPTZ", "string": "VARCHAR"}.get(kind, kind)


def make(landing: Path, out: Path) -> Callable[[], protocol.Rules]:
    return Floor(landing, out).step


if __name__ == "__main__":
    protocol.serve(make)
