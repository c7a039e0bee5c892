"""``fastloss list``, ``describe``, ``warm`` and ``plot``."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastloss import cli
from fastloss.commands import warm
from fastloss.define.registry import LOSSES


def run(capsys, *args):
    """Return the status, what was printed and the complaints."""
    try:
        status = cli.main(list(args))
    except SystemExit as stop:
        status = stop.code
    return status, *capsys.readouterr()


def test_list_has_every_loss_and_what_it_is(capsys):
    status, printed, _ = run(capsys, "list")
    assert status == 0
    lines = {name: " ".join(words) for name, *words in map(str.split, printed.splitlines())}
    assert set(lines) == set(LOSSES)
    assert lines["huber_loss"] == "Huber loss: quadratic near zero, linear far away."


def test_a_reader_that_has_seen_enough_is_no_error():
    command = f"{sys.executable} -m fastloss list | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


@pytest.mark.parametrize("name", LOSSES)
def test_describe_says_what_a_user_must_know(capsys, name):
    status, printed, _ = run(capsys, "describe", name)
    assert status == 0
    loss = LOSSES[name]
    assert printed.startswith(f"{name}(")
    assert ("Formula\n" in printed) == (".. math::" in loss.function.__doc__)
    assert f"differentiable with respect to {', '.join(loss.differentiable)}\n" in printed
    assert all(option in printed for option in loss.options)
    assert f"fl.{name}" in printed.partition("\nExample\n")[2] or ">>>" not in loss.function.__doc__
    assert ":func:" not in printed


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("hubber_loss", "huber_loss"),
        ("CrossEntropyLoss", "cross_entropy"),
        ("BCEWithLogits", "binary_cross_en"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [("describe",), ("warm",), ("plot", "--out", "x.png"), ("score",), ("bench", "--contenders", "fresh")],
    ids=str,
)
def test_misspelt_names_have_suggestions(capsys, command, written, meant):
    if command[0] == "plot":
        pytest.importorskip("matplotlib")
    status, printed, complaint = run(capsys, *command, written)
    assert (status, printed) == (2, "")
    assert f"did you mean {meant}" in complaint
    assert complaint.count("\n") == 1


def test_a_name_that_is_like_none(capsys):
    status, _, complaint = run(capsys, "describe", "xyzzy")
    assert status == 2
    assert "fastloss list" in complaint


def test_warm_calls_what_programs_call(capsys, monkeypatch):
    called = []
    loss = LOSSES["mse_loss"]
    monkeypatch.setattr(warm, "_SIZES", ("small",))
    monkeypatch.setattr(warm, "LOSSES", {"mse_loss": loss})
    original = warm.case_of
    monkeypatch.setattr(warm, "case_of", lambda *args: called.append(args) or original(*args))
    status, printed, _ = run(capsys, "warm", "--dtype", "float32,float64")
    assert status == 0
    assert called == [(loss, "small")] * 2
    assert printed.startswith("1 of 1 losses in float32, float64: ")


def test_warm_refuses_what_is_not_kept(capsys, monkeypatch):
    monkeypatch.setattr(warm, "folders", lambda: (None, ()))
    status, _, message = run(capsys, "warm", "mse_loss")
    assert status == 2
    assert "FASTLOSS_CACHE_DIR" in message


def test_warm_says_that_commas_separate_dtypes(capsys):
    status, _, complaint = run(capsys, "warm", "--dtype", "float32", "float16", "mse_loss")
    assert status == 2
    assert "float16 is a dtype and no loss: commas go between dtypes" in complaint


def test_warm_refuses_dtypes_that_nobody_knows(capsys):
    status, _, complaint = run(capsys, "warm", "mse_loss", "--dtype", "float8")
    assert status == 2
    assert "known: float64, float32, float16, bfloat16" in complaint


def test_every_command_is_in_the_help(capsys):
    status, printed, _ = run(capsys, "--help")
    assert status == 0
    for command in ("score", "plot", "list", "describe", "warm", "info", "bench", "demo"):
        assert f"\n    {command} " in printed


@pytest.mark.parametrize(
    ("args", "found"),
    [
        (("score", "--help"), ("--sample-weight", "--grad-out", "a mean is read twice")),
        (("score", "huber_loss", "--help"), ("--delta", "--weight", "a number > 0")),
        (("score", "poisson_nll_loss", "--help"), ("--no-log-input", "--eps")),
    ],
    ids=["score", "huber_loss", "poisson_nll_loss"],
)
def test_help_has_the_options_of_the_loss(capsys, args, found):
    status, printed, _ = run(capsys, *args)
    assert status == 0
    assert all(text in " ".join(printed.split()) for text in found)


class TestPlot:
    """``fastloss plot``."""

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path, monkeypatch):
        pytest.importorskip("matplotlib")
        monkeypatch.chdir(tmp_path)

    def test_a_picture_is_written(self, capsys):
        status, printed, _ = run(capsys, "plot", "huber_loss", "quantile_loss", "--delta", "0.5", "--out", "p.PNG")
        assert (status, printed) == (0, "wrote p.PNG\n")
        assert Path("p.PNG").read_bytes().startswith(b"\x89PNG")
        assert [path.name for path in Path().iterdir()] == ["p.PNG"]

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            ("huber_loss --out there.png", "there.png: exists"),
            ("huber_loss --out no/p.png", "no folder"),
            ("huber_loss --out p.docx", "the ending must be one of"),
            ("huber_loss --target x --out p.png", "expected a finite number, got 'x'"),
            ("huber_loss --delta 0 --out p.png", "delta must be a number > 0"),
            ("huber_loss --gamma 1 --out p.png", "unrecognized arguments"),
            ("ctc_loss --out p.png", "no single prediction"),
            ("huber_loss", "required: --out"),
        ],
    )
    def test_what_cannot_be_drawn(self, capsys, args, message):
        Path("there.png").touch()
        status, printed, complaint = run(capsys, "plot", *args.split())
        assert (status, printed) == (2, "")
        assert message in complaint
        assert complaint.count("\n") == 1
        assert [path.name for path in Path().iterdir()] == ["there.png"]
        assert Path("there.png").stat().st_size == 0


@pytest.mark.slow
def test_warm_fills_the_cache_folder(tmp_path):
    def warmed():
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
        command = [sys.executable, "-m", "fastloss", "warm", "l1_loss"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return {path.name for path in tmp_path.rglob("*.nbc")}

    first = warmed()
    assert first
    assert warmed() == first


def test_bfloat16_is_a_dtype_to_warm():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    assert warm._dtype("bfloat16") == np.dtype(ml_dtypes.bfloat16)
