"""Repeated small calls execute no more of the interpreter's instructions than the table says."""

import json

import pytest
import steps

TABLE = json.loads(steps.TABLE.read_text())


def test_the_table_has_every_kind():
    assert TABLE["counts"].keys() == steps.BARS.keys()


@pytest.mark.parametrize("kind", steps.BARS)
def test_steps(kind):
    """Every version of Python has instructions of its own: the table holds for one, the bar, once reached, for all."""
    if "torch" in kind:
        pytest.importorskip("torch")
    kept, bar = TABLE["counts"][kind], steps.BARS[kind]
    found = steps.count(kind)
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
