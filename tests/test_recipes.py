"""The examples of the guide to more data than memory: each gives the loss of all rows together."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastloss as fl

GUIDE = (Path(__file__).parent.parent / "docs" / "guides" / "larger_than_memory.md").read_text(encoding="utf-8")
RECIPES = {
    title: "".join(re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    for title, text in re.findall(r"^##? (.*?)\n(.*?)(?=^## |\Z)", GUIDE, re.MULTILINE | re.DOTALL)
}


@pytest.fixture
def data():
    """Rows of which some are ignored, most of them in the first blocks: a mean of means is another number."""
    rng = np.random.default_rng(3)
    logits, labels = rng.normal(size=(600, 10)).astype(np.float32), rng.integers(10, size=600)
    labels[:250:2] = -100
    return {"np": np, "fl": fl, "logits": logits, "labels": labels}


def run(title, names):
    exec(RECIPES[title], names)
    return names


def whole(data):
    return fl.cross_entropy(data["logits"].astype(np.float64), data["labels"])


def test_every_example_is_run_by_a_test():
    assert [title for title, code in RECIPES.items() if code] == [
        "More data than memory", "Dask", "Ray Data", "Spark", "torch.distributed"
    ]  # fmt: skip


def test_partial_sums():
    names = run("More data than memory", {})
    logits, labels = names["logits"], names["labels"]
    np.testing.assert_allclose(names["gradient"], fl.grad(fl.cross_entropy)(logits, labels)[:300], rtol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_dask(data):
    dask = pytest.importorskip("dask")
    with dask.config.set(scheduler="threads"):
        names = run("Dask", data)
    gradient = fl.grad(fl.cross_entropy)(data["logits"], data["labels"])
    np.testing.assert_allclose(names["loss"], whole(data), rtol=1e-6)
    np.testing.assert_allclose(names["norm"], np.linalg.norm(gradient), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray(data, monkeypatch):
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    monkeypatch.setenv("PYTHONPATH", str(Path(fl.__file__).parents[1]))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        names = run("Ray Data", data)
    finally:
        ray.shutdown()
    np.testing.assert_allclose(names["mean"], whole(data), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_spark(data, monkeypatch):
    pytest.importorskip("pyspark")
    pytest.importorskip("pyarrow")
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        pytest.skip("needs Java")
    monkeypatch.setenv("PYTHONPATH", str(Path(fl.__file__).parents[1]))
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    names = run("Spark", data)
    names["spark"].stop()
    np.testing.assert_allclose(names["mean"], whole(data), rtol=1e-6)


# What a process does around the recipe: the first one has 450 rows, the second one 150.
PROCESS = """
import sys
import numpy as np
import fastloss as fl
{recipe}
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
rows = slice(0, 450) if rank == 0 else slice(450, None)
loss, gradient = step(np.load("logits.npy")[rows], np.load("labels.npy")[rows])
np.savez(f"rank{{rank}}.npz", loss=loss, gradient=gradient)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_torch_distributed(data, tmp_path):
    """In two processes, which talk to each other on this machine."""
    torch = pytest.importorskip("torch")
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        pytest.skip("this torch has no gloo")
    for name in ("logits", "labels"):
        np.save(tmp_path / f"{name}.npy", data[name])
    (tmp_path / "step.py").write_text(PROCESS.format(recipe=RECIPES["torch.distributed"]), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path(fl.__file__).parents[1]), "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen(
            [sys.executable, "step.py", str(rank), str(tmp_path / "meeting")],
            cwd=tmp_path,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    found = [np.load(tmp_path / f"rank{rank}.npz") for rank in range(2)]
    np.testing.assert_allclose([one["loss"] for one in found], whole(data), rtol=1e-6)
    gradient = np.concatenate([one["gradient"] for one in found])
    exact = fl.grad(fl.cross_entropy)(data["logits"], data["labels"])
    np.testing.assert_allclose(gradient, exact, rtol=1e-5, atol=1e-9)
