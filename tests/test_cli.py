"""The command line: what it prints, what it refuses, and the demo at a tiny size."""

import os
import signal
import subprocess
import sys
import time
from importlib import util

import pytest

import fastloss as fl
from fastloss import cli

needs_demo = pytest.mark.skipif(
    any(util.find_spec(module) is None for module in ("sklearn", "scipy", "matplotlib")),
    reason="needs the extra 'demo'",
)


def fastloss(*args, **kwargs):
    return subprocess.run(
        [sys.executable, "-m", "fastloss", *args], capture_output=True, text=True, timeout=300, **kwargs
    )


def test_version_is_the_package_s(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"fastloss {fl.__version__}\n"


def test_info_names_versions_threads_and_cache():
    done = fastloss("info")
    assert done.returncode == 0, done.stderr
    found = {line[:14].strip(): line[14:] for line in done.stdout.splitlines()}
    assert found["fastloss"] == fl.__version__
    for name in ("numpy", "numba", "llvmlite", "python", "processor", "SIMD", "kernel cache", "GPUs"):
        assert found[name].strip(), name
    assert int(found["threads"].split()[0]) >= 1


def test_show_config_follows_the_settings(capsys):
    with fl.config(num_threads=3, check_indices=False):
        fl.show_config()
    printed = capsys.readouterr().out
    assert "3 of fastloss's own pool" in printed
    assert "index checks  off" in printed


@pytest.mark.parametrize("modules", [("sklearn",), ("scipy", "matplotlib")])
def test_a_missing_guest_names_its_extra(monkeypatch, capsys, modules):
    find_spec = util.find_spec
    monkeypatch.setattr(cli.util, "find_spec", lambda name: None if name in modules else find_spec(name))
    assert cli.main(["demo"]) == 2
    message = capsys.readouterr().err
    assert "pip install 'fastloss[demo]'" in message
    assert all(module in message for module in modules)


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["dance"],
        *(["demo", "--size", size] for size in ("0", "many", "1e400")),
        *(["bench", "--seconds", seconds] for seconds in ("-1", "0", "nan", "inf", "some")),
        ["bench", "--sizes", ","],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_2(capsys, args):
    with pytest.raises(SystemExit) as stop:
        cli.main(args)
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "number"), [("12", 12), ("1_000", 1000), ("1e6", 1_000_000)])
def test_sizes_are_read_as_people_write_them(text, number):
    assert cli.positive(text) == number


@needs_demo
def test_a_folder_that_is_not_there_is_found_out_first(tmp_path, monkeypatch, capsys):
    from fastloss.demo import digits

    monkeypatch.setattr(digits, "run", lambda: pytest.fail("the demo ran"))
    assert cli.main(["demo", "--output", str(tmp_path / "nowhere" / "demo.png")]) == 2
    assert cli.main(["demo", "--output", str(tmp_path / "demo.foo")]) == 2
    assert f"there is no folder {tmp_path / 'nowhere'}" in capsys.readouterr().err


@pytest.mark.parametrize("device", [[], ["--device", "cpu"]])
def test_a_contender_that_nobody_knows(capsys, device):
    if device:
        pytest.importorskip("torch")
    assert cli.main(["bench", "--contenders", "foo", "mse_loss", *device]) == 2
    message = capsys.readouterr().err
    assert "unknown contender foo" in message
    assert "reused" in message


@needs_demo
@pytest.mark.slow
def test_demo_agrees_draws_and_cleans_up(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    picture = tmp_path / "demo.png"
    done = fastloss("demo", "--size", "2000", "--output", str(picture), env={**os.environ, "TMPDIR": str(scratch)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "they agree" in done.stdout
    for loss in ("cross_entropy, value and gradient", "multi_margin_loss", "mse_loss"):
        assert loss in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert not [path for path in scratch.iterdir() if path.name.startswith("fastloss-demo-")]


@needs_demo
@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_files(tmp_path, sent):
    command = [sys.executable, "-m", "fastloss", "demo", "--size", "100000000"]  # seconds, to send a signal in
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command,
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # Workers of pytest-xdist ignore the signal, and their children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("fastloss-demo-*/logits.npy")) and process.poll() is None:
            assert time.monotonic() < deadline, "the demo did not come to its second part"
            time.sleep(0.02)
        process.send_signal(sent)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert not list(tmp_path.glob("fastloss-demo*"))


@needs_demo
def test_demo_says_when_results_do_not_agree(capsys):
    import numpy as np

    from fastloss.demo import digits

    x = np.linspace(-1.0, 1.0, 650)
    assert digits._compare((0.5, 0.9), (0.5, 0.9), x, x)
    assert digits._compare((0.5, 0.9), (0.5, 0.9), x, np.concatenate([x[:-10], x[-10:] + 3.0]))
    assert not digits._compare((0.5, 0.9), (0.50001, 0.9), x, x)
    assert not digits._compare((0.5, 0.9), (0.5, 0.8), x, x)
    assert not digits._compare((0.5, 0.9), (0.5, 0.9), x, np.concatenate([x[:5] + 0.01, x[5:]]))
    assert "DO NOT AGREE" in capsys.readouterr().out
