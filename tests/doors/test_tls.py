"""Both doors behind TLS, with a certificate made for the test."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from pyarrow import flight
from pyspark.sql import SparkSession
from tests.web.web_kit import Shop

from lakelet.doors import Certificate, open_doors
from lakelet.doors.flight_messages import packed


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_both_doors_use_the_certificate(
    shop: Shop, tmp_path: Path, new_session: Callable[[str], SparkSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(chain)],
        check=True, capture_output=True,
    )  # fmt: skip
    trusted = grpc.ssl_channel_credentials(chain.read_bytes())
    monkeypatch.setattr(grpc, "ssl_channel_credentials", lambda: trusted)  # as a system that knows the issuer
    with open_doors(
        shop.pipeline().sibling(), host="localhost", spark_port=0, flight_port=0, queries=1, token="shared",
        certificate=Certificate.read(chain, key),
    ) as doors:  # fmt: skip
        assert doors.spark_connect.endswith("/;use_ssl=true;token=shared")
        assert new_session(doors.spark_connect).table("gold.totals").count() == 2
        with flight.connect(doors.flight_sql, tls_root_certs=chain.read_bytes()) as client:
            options = flight.FlightCallOptions(headers=[(b"authorization", b"Bearer shared")])
            assert client.do_get(flight.Ticket(packed("CommandGetTableTypes")), options).read_all().num_rows == 1
