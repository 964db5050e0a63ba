"""A short soak: generator and continuous pipeline killed at random moments; `make soak` is the long one."""

from __future__ import annotations

import multiprocessing
import random
from pathlib import Path

import pytest
from benchmarks.soak import SUBJECTS
from benchmarks.soak_kills import Soak


@pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="needs a fork server")
@pytest.mark.parametrize("name", SUBJECTS)
def test_a_few_kills_lose_and_double_nothing(tmp_path: Path, name: str) -> None:
    seed = random.SystemRandom().randrange(10**6)
    soak = Soak(subject=SUBJECTS[name](root=tmp_path, seed=seed), seed=seed, shells=0.0, maintenances=0.4)
    said: list[str] = []
    assert soak.run(kills=5, seconds=25, say=said.append) == [], f"seed {seed}"
    assert soak.kills >= 2
