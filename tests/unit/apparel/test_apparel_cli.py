"""The command line: exit codes, stdout for data, stderr for messages, JSON everywhere."""

import json
import os
import subprocess
import sys
from dataclasses import fields

import pytest
from click.testing import CliRunner

from apparel.cli import cli
from apparel.generator.settings import BulkSettings, Dirt, GeneratorSettings, option_name


@pytest.fixture
def apparel(storage):
    def run(*arguments, answer=None):
        return CliRunner().invoke(cli, arguments, input=answer, env={"LAKELET_STORAGE": str(storage)})

    return run


@pytest.fixture
def generated(apparel):
    result = apparel("generate", "--batches", "2", "--interval", "0", "--seed", "1")
    assert result.exit_code == 0, result.output
    return result


def test_generate_prints_a_line_per_batch_on_stdout(generated):
    first, second = generated.stdout.splitlines()
    assert first.startswith("batch 1")
    assert "customers" in first
    assert "(50 to start with)" in first
    assert "sales 500" in second
    assert generated.stderr == ""


def test_generate_prints_a_json_object_per_batch(apparel):
    result = apparel("generate", "--batches", "2", "--interval", "0", "--json")
    batches = [json.loads(line) for line in result.stdout.splitlines()]
    assert [batch["first_transaction_id"] for batch in batches] == [1, 501]
    assert batches[1]["rows"]["sales"] == 500


def test_the_same_seed_and_clock_give_the_same_rows_from_the_command_line(tmp_path):
    sizes = []
    for name in ("one", "two"):
        arguments = ["--storage", str(tmp_path / name), "--json"]
        options = ["--batches", "2", "--interval", "0", "--seed", "5", "--clock", "2026-01-31T08:00:00"]
        assert CliRunner().invoke(cli, ["generate", *arguments, *options]).exit_code == 0
        listing = json.loads(CliRunner().invoke(cli, ["list", *arguments]).stdout)
        sizes.append([(s["rows"], s["first_at"], s["last_at"], s["size_bytes"]) for s in listing["streams"]])
    assert sizes[0] == sizes[1]
    assert sizes[0][-1][2].startswith("2026-01-31T07:59:5")


def test_a_seeded_bulk_load_depends_on_the_seed_alone(apparel):
    result = apparel(
        "generate",
        "--bulk-sales",
        "3000",
        "--commits",
        "3",
        "--seed",
        "1",
        "--bulk-customers",
        "50",
        "--json",
    )
    batches = [json.loads(line) for line in result.stdout.splitlines()]
    assert [batch["rows"]["sales"] for batch in batches] == [1000, 1000, 1000]
    assert batches[0]["bootstrapped"]["customers"] == 50
    assert batches[-1]["at"] == "2026-01-01T00:00:00+00:00"


def test_every_setting_is_an_option():
    known = {option for parameter in cli.commands["generate"].params for option in parameter.opts}
    settings = [s for owner in (GeneratorSettings, Dirt, BulkSettings) for s in fields(owner) if s.name != "dirt"]
    assert {option_name(setting) for setting in settings} <= known


def test_options_reach_their_settings(apparel):
    result = apparel(
        *("generate", "--batches", "1", "--json", "--sales-per-batch", "7", "--customer-changes", "3..3"),
        *("--store-changes", "0", "--bootstrap-customers", "9", "--duplicate-rate", "1"),
    )
    rows = json.loads(result.stdout)["rows"]
    assert (rows["sales"], rows["customers"], rows["stores"]) == (14, 9 + 6, 5)


def test_setup_twice_says_created_then_exists(apparel):
    assert apparel("setup").stdout.count("created") == 10
    assert apparel("setup").stdout.count("exists") == 10
    assert not any(place["created"] for place in json.loads(apparel("setup", "--json").stdout)["places"])


def test_list_and_health_print_tables_and_json(apparel, generated):
    assert "1,000" in apparel("list").stdout
    assert "customer_id" in apparel("health").stdout
    assert json.loads(apparel("list", "--json").stdout)["streams"][-1]["rows"] == 1000
    health = json.loads(apparel("health", "--json").stdout)
    assert health["rows"]["sales"] == 1000
    assert [key["orphans"] for key in health["foreign_keys"]] == [0, 0, 0]


def test_maintain_prints_a_line_per_table(apparel, generated):
    assert "streaming/sales: 2 → 1 files, vacuum deleted 0" in apparel("maintain").stdout
    report = json.loads(apparel("maintain", "--dry-run", "--json").stdout)
    assert report["dry_run"]
    assert len(report["tables"]) == 4


def test_reset_asks_and_removes_nothing_without_a_yes(apparel, generated):
    result = apparel("reset", "--landing", answer="n\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "nothing removed" in result.stderr
    assert json.loads(apparel("list", "--json").stdout)["streams"][-1]["rows"] == 1000


def test_reset_removes_after_a_yes(apparel, generated):
    result = apparel("reset", "--landing", answer="y\n")
    assert result.exit_code == 0
    assert json.loads(apparel("list", "--json").stdout)["streams"][-1]["rows"] == 0


def test_reset_without_anybody_to_ask_is_a_usage_error(apparel, generated):
    result = apparel("reset", "--landing", answer="")
    assert result.exit_code == 2
    assert "--yes" in result.stderr


def test_reset_of_both_in_json(apparel, generated):
    result = apparel("reset", "--landing", "--tables", "--yes", "--json")
    assert [doomed["path"].rpartition("/")[2] for doomed in json.loads(result.stdout)["removed"]] == [
        "sales",
        "items",
        "customers",
        "stores",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "--customer-changes", "9..1"], "range such as 1..30"),
        (["generate", "--clock", "yesterday"], "ISO 8601"),
        (["generate", "--batches", "1", "--bulk-sales", "5"], "exclude each other"),
        (["generate", "--commits", "5"], "--commits needs --bulk-sales"),
        (["generate", "--return-rate", "2"], "error[APPAREL_SETTING_INVALID]"),
        (["maintain", "--retention-hours", "1"], "error[RETENTION_TOO_SHORT]"),
        (["reset"], "pass --tables, --landing or both"),
        (["reset", "--landing", "--yes"], "error[APPAREL_STORAGE_UNKNOWN]"),
        (["nonsense"], "No such command"),
    ],
)
def test_usage_errors_exit_2_and_say_what_to_do_on_stderr(apparel, arguments, message):
    result = apparel(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_a_failure_exits_1_with_one_block_and_no_traceback(apparel, storage):
    folder = storage / "Volumes" / "apparel_store" / "00_landing" / "streaming" / "sales"
    folder.mkdir(parents=True)
    (folder / "stray.csv").write_text("")
    result = apparel("generate", "--batches", "1")
    assert result.exit_code == 1
    assert result.stderr.startswith("error[LANDING_NOT_DELTA]")
    assert "Traceback" not in result.output


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from apparel.cli import cli\n"
        "for arguments in (['--help'], ['generate', '--help']):\n"
        "    cli(arguments, standalone_mode=False)\n"
        "print(sorted({'pyarrow', 'deltalake', 'numpy', 'mimesis', 'pyspark'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("signal_name", "code", "mode"),
    [
        ("SIGTERM", 143, ["--interval", "3600"]),
        ("SIGINT", 130, ["--bulk-sales", "2000000000", "--bulk-customers", "9"]),
    ],
)
def test_a_signal_ends_a_run_with_its_exit_code(storage, signal_name, code, mode):
    """The process signals itself once the first table exists, so that nothing has to sleep."""
    program = (
        "import os, signal, sys, threading\n"
        "from pathlib import Path\n"
        "from apparel.cli import main\n"
        "def interrupt(log):\n"
        "    while not log.exists(): threading.Event().wait(0.01)\n"
        f"    os.kill(os.getpid(), signal.{signal_name})\n"
        "landing = Path(sys.argv[3]) / 'Volumes/apparel_store/00_landing/streaming'\n"
        "log = landing / 'sales/_delta_log/00000000000000000000.json'\n"
        "threading.Thread(target=interrupt, args=[log], daemon=True).start()\n"
        "main()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program, "generate", "--storage", str(storage), *mode],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "the next run continues with transaction" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_in_an_object_store_is_no_folder() -> None:
    result = CliRunner().invoke(cli, ["list", "--storage", "s3://bucket/x"])
    assert result.exit_code == 2
    assert "not a folder of this machine" in result.output
