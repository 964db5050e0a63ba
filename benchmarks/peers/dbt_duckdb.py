"""dbt on DuckDB: the models that a dbt user would write, run in process by `dbtRunner`, two threads.

`DBT_STYLE=incremental` (default) appends facts and recomputes the histories of the keys that changed;
`DBT_STYLE=complete` recomputes histories as tables. The wide fact table is incremental in both: it must see the dimensions
as they were. Tables live in one DuckDB file: no Delta commits are paid for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import duckdb
import protocol
import specification as spec
from dbt.cli.main import dbtRunner

STYLE = os.environ.get("DBT_STYLE", "incremental")
NEWEST = "ingest_timestamp = (SELECT max(ingest_timestamp) FROM {{{{ ref('bronze_{0}') }}}})"
THIS_RUN = "ingest_timestamp = TIMESTAMPTZ '{{ run_started_at }}'"
APPEND = "{{ config(materialized='incremental', incremental_strategy='append') }}\n"
DEPENDS = "-- depends_on: {{{{ ref('bronze_{0}') }}}}\n"
TABLE = "{{ config(materialized='table') }}\n"


def models(landing: Path) -> dict[str, str]:
    """Return the text of every model by name."""
    found: dict[str, str] = {}
    for name, folder in spec.STREAMS.items():
        # Ids are checked here: `error` fails the run as expect_or_fail does.
        (must,) = spec.MUST[name].values()
        first = spec.columns(name)[0][0]
        checked = f"CASE WHEN {must} THEN {first} ELSE error('bronze_{name}: a row without an id') END AS {first}"
        rest = spec.typed(name).split(", ", 1)[1]
        found[f"bronze_{name}"] = (
            APPEND + f"SELECT {checked}, {rest}, TIMESTAMPTZ '{{{{ run_started_at }}}}' AS ingest_timestamp, "
            f"filename AS source_file_path FROM read_parquet('{landing}/{folder}/*.parquet', filename = true)\n"
            "{% if is_incremental() %} WHERE filename NOT IN (SELECT DISTINCT source_file_path FROM {{ this }}) {% endif %}"
        )
        more = {
            "stores": "* REPLACE (coalesce(manager, 'Unknown') AS manager)",
            "sales": "*, CAST(event_time AS DATE) AS date",
        }
        found[f"{name}_cleaned"] = (
            f"{{{{ config(materialized='view') }}}}\nSELECT {more.get(name, '*')} FROM {{{{ ref('bronze_{name}') }}}}"
        )
    for name, key in spec.KEYS.items():
        kept = spec.all_of(spec.DROP[name])
        events = f"(SELECT * FROM {{{{ ref('{name}_cleaned') }}}} WHERE {kept})"
        if STYLE == "complete":
            found[f"silver_{name}"] = TABLE + spec.history(name, events)
        else:
            touched = (
                f"(SELECT * FROM {{{{ ref('{name}_cleaned') }}}} WHERE {kept} {{% if is_incremental() %}} AND {key} IN "
                f"(SELECT {key} FROM {{{{ ref('{name}_cleaned') }}}} WHERE {NEWEST.format(name)}) {{% endif %}})"
            )
            config = f"{{{{ config(materialized='incremental', incremental_strategy='delete+insert', unique_key='{key}') }}}}\n"
            found[f"silver_{name}"] = DEPENDS.format(name) + config + spec.history(name, touched)
    facts = spec.all_of(spec.FACT_DROP)
    fresh = f"{{{{ ref('sales_cleaned') }}}} WHERE {NEWEST.format('sales')}"
    new = f"{{% if is_incremental() %}} {fresh} {{% else %}} {{{{ ref('sales_cleaned') }}}} WHERE true {{% endif %}}"
    found["silver_sales_transactions"] = (
        DEPENDS.format("sales") + APPEND + f"SELECT * FROM {new} AND quantity > 0 AND {facts}"
    )
    found["silver_returns_transactions"] = (
        DEPENDS.format("sales")
        + APPEND
        + f"SELECT * EXCLUDE (quantity, total_amount), {spec.RETURNED} FROM {new} AND quantity < 0 AND {facts}"
    )
    sold = (
        "(SELECT * FROM {{ ref('silver_sales_transactions') }} {% if is_incremental() %} WHERE ingest_timestamp = "
        "(SELECT max(ingest_timestamp) FROM {{ ref('bronze_sales') }}) {% endif %})"
    )
    current = "(SELECT * FROM {{{{ ref('silver_{}') }}}} WHERE __END_AT IS NULL)"
    found["denormalized_sales_facts"] = DEPENDS.format("sales") + APPEND + spec.denormalized(sold, current)
    for table, query in spec.gold("{{ ref('denormalized_sales_facts') }}").items():
        found[table] = TABLE + query
    counted = [
        (f"{name}_cleaned_stream", f"{{{{ ref('{name}_cleaned') }}}} WHERE {THIS_RUN}", spec.rules_of(name))
        for name in spec.STREAMS
    ]
    counted += [
        (table, f"{{{{ ref('sales_cleaned') }}}} WHERE {THIS_RUN} AND quantity {sign} 0", spec.FACT_DROP)
        for table, sign in (("silver_sales_transactions", ">"), ("silver_returns_transactions", "<"))
    ]
    found["rule_counts"] = TABLE + "\nUNION ALL\n".join(
        f"SELECT '{table}' AS dataset, '{rule}' AS rule, count(*) FILTER (WHERE {check}) AS passed FROM {rows}"
        for table, rows, rules in counted
        for rule, check in {"num_rows": "true", **rules}.items()
    )
    return found


def make(landing: Path, out: Path) -> Callable[[], protocol.Rules]:
    project = out / "project"
    (project / "models").mkdir(parents=True)
    database = out / "dbt.duckdb"
    (project / "dbt_project.yml").write_text(
        "name: peer\nversion: 1.0.0\nprofile: peer\nflags: {send_anonymous_usage_stats: false}\n"
    )
    (project / "profiles.yml").write_text(
        "peer:\n  target: dev\n  outputs:\n    dev:\n      type: duckdb\n      threads: 2\n"
        f"      path: {database}\n      settings: {{TimeZone: UTC}}\n"
    )
    for name, text in models(landing).items():
        (project / "models" / f"{name}.sql").write_text(text)
    runner = dbtRunner()
    command = ["--quiet", "run", "--project-dir", str(project), "--profiles-dir", str(project)]

    def step() -> protocol.Rules:
        result = runner.invoke(command)
        if not result.success:
            raise SystemExit(str(result.exception or [r.message for r in result.result if r.status != "success"]))
        rules: protocol.Rules = {}
        with duckdb.connect(str(database)) as db:
            for dataset, rule, passed in db.execute("SELECT * FROM main.rule_counts").fetchall():
                rules.setdefault(dataset, {})[rule] = passed
        return rules

    return step


if __name__ == "__main__":
    protocol.serve(make)
