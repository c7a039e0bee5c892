"""Repeated small calls execute no more of the interpreter's instructions than the table says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import steps

import fastloss as fl

TABLE = json.loads(steps.TABLE.read_text())


def test_the_table_has_every_kind():
    assert TABLE["counts"].keys() == steps.BARS.keys()


@pytest.fixture(scope="module")
def counts():
    """Return the counts of a process that has called nothing else."""
    environment = {**os.environ, "PYTHONPATH": str(Path(fl.__file__).parents[1])}
    done = subprocess.run([sys.executable, steps.__file__, "--json"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", steps.BARS)
def test_steps(kind, counts):
    """Every version of Python has instructions of its own: the table holds for one, the bar, once reached, for all."""
    if "torch" in kind:
        pytest.importorskip("torch")
    kept, bar = TABLE["counts"][kind], steps.BARS[kind]
    found = counts[kind]
    if TABLE["python"] == steps.VERSION:
        assert found <= kept, f"{found} instructions, {kept} in {steps.TABLE.name}"
    if kept <= bar:
        assert found <= bar


def test_a_count_is_exact():
    def one():
        return 1

    def twice():
        return one() + one()

    assert 0 < steps.steps(one) < steps.steps(twice)
    assert steps.steps(len, ()) == 0
    assert steps.repeated(twice) == steps.repeated(twice)
    assert steps.count("plain") == steps.count("plain")
