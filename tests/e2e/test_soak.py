"""A short soak: generator and continuous pipeline killed at random moments; `make soak` is the long one."""

from __future__ import annotations

import multiprocessing
import random
from pathlib import Path

import pytest
from benchmarks.soak import Soak


@pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="needs a fork server")
def test_a_few_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    soak = Soak(root=tmp_path, seed=random.SystemRandom().randrange(10**6), shells=0.0, maintenances=0.4)
    said: list[str] = []
    soak.run(kills=5, seconds=25, say=said.append)
    soak.drain()
    assert soak.differences() == [], f"seed {soak.seed}"
    assert soak.kills >= 2
