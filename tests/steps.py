"""Counts the interpreter's steps in a repeated small call.

What a small call costs is the Python around its kernel. A time says that only on a quiet machine; the number of
bytecode instructions that the calling thread executes, in every frame below the call, is the same in every run.

With the package importable, ``python tests/steps.py`` prints the counts beside those of the table, ``--json`` prints
them alone, and ``--write`` renews the table. A count depends on the calls before it, so it takes a process of its own.
``--device`` counts calls of arrays on a GPU, for which the process must find the driver of tests/fake_driver.c.
"""

import argparse
import functools
import gc
import importlib.util
import itertools
import json
import math
import sys
import threading
from pathlib import Path

import numpy as np

import fastloss as fl

TABLE = Path(__file__).with_name("steps.json")
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"

# What a repeated call is to come to, on any version of Python, by the kind of arrays and loss.
NUMPY, OPTION, TORCH, LINEAR, FIRST = 400, 450, 800, 800, 3000
DEVICE, DEVICE_WITH_LABELS = 500, 800

WARMING = 3
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(64, 10)).astype("f4")
LABELS = RNG.integers(10, size=64)
WEIGHT, SAMPLE = RNG.uniform(0.5, 2, size=10).astype("f4"), RNG.uniform(0.5, 2, size=64).astype("f4")
CHANCES = RNG.dirichlet(np.ones(10), size=64).astype("f4")
CROSS_ENTROPY = fl.value_and_grad(fl.cross_entropy)
MSE = fl.value_and_grad(fl.mse_loss)


def steps(function, *args, **kwargs):
    """Return how many instructions the calling thread executes inside of `function`, dependencies included."""
    if sys.version_info >= (3, 12):  # where settrace does not see all instructions
        return _monitored(function, *args, **kwargs)
    counted = 0

    def trace(frame, event, _):
        nonlocal counted
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        counted += event == "opcode"
        return trace

    before = sys.gettrace()
    collecting = gc.isenabled()
    gc.disable()
    try:
        sys.settrace(trace)
        function(*args, **kwargs)
    finally:
        sys.settrace(before)
        if collecting:
            gc.enable()
    return counted


def _monitored(function, *args, **kwargs):
    """Return what `steps` does, counted by the interpreter's monitoring."""
    counted, here, thread, monitoring = 0, sys._getframe().f_code, threading.get_ident(), sys.monitoring

    def count(code, _):
        nonlocal counted
        counted += code is not here and threading.get_ident() == thread

    tool = monitoring.PROFILER_ID
    monitoring.use_tool_id(tool, "steps")
    monitoring.register_callback(tool, monitoring.events.INSTRUCTION, count)
    collecting = gc.isenabled()
    gc.disable()
    try:
        monitoring.set_events(tool, monitoring.events.INSTRUCTION)
        function(*args, **kwargs)
    finally:
        monitoring.set_events(tool, monitoring.events.NO_EVENTS)
        monitoring.free_tool_id(tool)
        if collecting:
            gc.enable()
    return counted


def repeated(function, *args, **kwargs):
    """Return the steps of a call that has been made before."""
    for _ in range(WARMING):
        function(*args, **kwargs)
    return steps(function, *args, **kwargs)


def _locked():
    x = LOGITS.copy()
    x.flags.writeable = False
    return CROSS_ENTROPY, (x, LABELS), {}


def _in_place():
    x = LOGITS.copy()
    return CROSS_ENTROPY, (x, LABELS), {"grad_out": x}


def _shared():
    x = RNG.normal(size=(2000, 100)).astype("f4")
    return CROSS_ENTROPY, (x, RNG.integers(100, size=2000)), {}


def _images():
    return CROSS_ENTROPY, (LOGITS.reshape(4, 10, 4, 4).copy(), LABELS.reshape(4, 4, 4)), {}


def _curvature():
    return fl.grad_and_hess(fl.binary_cross_entropy_with_logits), (LOGITS, CHANCES), {"reduction": "none"}


def _pos_weight():
    loss = fl.value_and_grad(fl.binary_cross_entropy_with_logits)
    return loss, (LOGITS, CHANCES), {"pos_weight": WEIGHT}


def _wider():
    return CROSS_ENTROPY, (LOGITS.astype("f2"), LABELS), {"grad_out": np.empty_like(LOGITS)}


def _linear():
    head = RNG.normal(size=(20, 10)).astype("f4")
    bias = RNG.normal(size=20).astype("f4")
    return fl.value_and_grad(fl.linear_cross_entropy), (LOGITS, head, LABELS), {"linear_bias": bias}


def _torch(dtype="float32", into=False):
    import torch

    x = torch.from_numpy(LOGITS).to(getattr(torch, dtype))
    return CROSS_ENTROPY, (x, torch.from_numpy(LABELS)), {"grad_out": torch.empty_like(x)} if into else {}


# The call of each kind, made when it is counted, and its bar.
KINDS = {
    "plain": (lambda: (CROSS_ENTROPY, (LOGITS, LABELS), {}), NUMPY),
    "mse": (lambda: (MSE, (LOGITS, CHANCES), {}), NUMPY),
    "value": (lambda: (fl.cross_entropy, (LOGITS, LABELS), {}), NUMPY),
    "grad_out": (lambda: (CROSS_ENTROPY, (LOGITS, LABELS), {"grad_out": np.empty_like(LOGITS)}), NUMPY),
    "in place": (_in_place, NUMPY),
    "int32 labels": (lambda: (CROSS_ENTROPY, (LOGITS, LABELS.astype("i4")), {}), NUMPY),
    "class weight": (lambda: (CROSS_ENTROPY, (LOGITS, LABELS), {"weight": WEIGHT}), NUMPY),
    "label smoothing": (lambda: (CROSS_ENTROPY, (LOGITS, LABELS), {"label_smoothing": 0.1}), NUMPY),
    "class probabilities": (lambda: (CROSS_ENTROPY, (LOGITS, CHANCES), {}), NUMPY),
    "float16": (lambda: (CROSS_ENTROPY, (LOGITS.astype("f2"), LABELS), {}), NUMPY),
    "read-only": (_locked, NUMPY),
    "transposed": (lambda: (CROSS_ENTROPY, (np.asfortranarray(LOGITS), LABELS), {}), NUMPY),
    "(N, C, d1, d2)": (_images, NUMPY),
    "grad_output": (lambda: (CROSS_ENTROPY, (LOGITS, LABELS), {"grad_output": 2.0}), NUMPY),
    "curvature": (_curvature, NUMPY),
    "on threads": (_shared, NUMPY),
    "class of a loss": (lambda: (fl.CrossEntropyLoss(weight=WEIGHT).value_and_grad, (LOGITS, LABELS), {}), NUMPY),
    "mse with weight": (lambda: (MSE, (LOGITS, CHANCES), {"weight": CHANCES}), NUMPY),
    "pos_weight": (_pos_weight, NUMPY),
    "unreduced": (lambda: (CROSS_ENTROPY, (LOGITS, LABELS), {"reduction": "none"}), NUMPY),
    "sample_weight": (lambda: (CROSS_ENTROPY, (LOGITS, LABELS), {"sample_weight": SAMPLE}), OPTION),
    "sample_weight, elements": (lambda: (MSE, (LOGITS, CHANCES), {"sample_weight": CHANCES}), OPTION),
    "sample_weight, rows": (lambda: (MSE, (LOGITS, CHANCES), {"sample_weight": SAMPLE}), OPTION),
    "divisor": (lambda: (CROSS_ENTROPY, (LOGITS, LABELS), {"divisor": 100.0}), OPTION),
    "axis": (lambda: (CROSS_ENTROPY, (LOGITS.T.copy(), LABELS), {"axis": 0}), OPTION),
    "logit_scale": (lambda: (CROSS_ENTROPY, (LOGITS, LABELS), {"logit_scale": 2.0}), OPTION),
    "softcap": (lambda: (CROSS_ENTROPY, (LOGITS, LABELS), {"softcap": 30.0}), OPTION),
    "z_loss": (lambda: (CROSS_ENTROPY, (LOGITS, LABELS), {"z_loss": 1e-4}), OPTION),
    "valid_classes": (lambda: (CROSS_ENTROPY, (LOGITS, LABELS % 8), {"valid_classes": 8}), OPTION),
    "returns": (lambda: (CROSS_ENTROPY, (LOGITS, LABELS), {"returns": ("lse",)}), OPTION),
    "partial_sum": (lambda: (fl.partial_sum(fl.cross_entropy), (LOGITS, LABELS), {}), OPTION),
    "float32 of float16": (_wider, OPTION),
    "torch": (_torch, TORCH),
    "torch with grad_out": (lambda: _torch(into=True), TORCH),
    "torch bfloat16": (lambda: _torch("bfloat16"), TORCH),
    "linear with bias": (_linear, LINEAR),
}
FIRST_VISIT = "another batch size"
BARS = {kind: bar for kind, (_, bar) in KINDS.items()} | {FIRST_VISIT: FIRST}

_sizes = itertools.count(65)


def _first_visit():
    """Return the steps of the first call with a batch size, where another one has been called repeatedly."""
    for _ in range(WARMING):
        CROSS_ENTROPY(LOGITS, LABELS)
    size = next(_sizes)
    return steps(CROSS_ENTROPY, np.resize(LOGITS, (size, 10)), np.resize(LABELS, size))


def _on_device():
    """Have tensors in host memory taken for such in device memory, where labels are never found to be bad.

    Launches go to a driver that does nothing.
    """
    import torch

    from fastloss.call import dispatch
    from fastloss.cuda.device.numba_cuda import cuda
    from fastloss.cuda.torch_arrays import TorchLibrary

    class StandIn(TorchLibrary):
        current_stream = int  # 0, the default one

        def making(self, shape, dtype):
            if dtype == np.int64:
                return functools.partial(torch.full, shape, -1)
            return super().making(shape, dtype)

    library = StandIn(0)
    library.device = "cpu"
    library.reader = functools.partial(library.view, name="array")
    dispatch._library = lambda array, name: library
    dispatch.host.lowering = lambda array: None
    cuda.current_context()


def _device(name, *shapes, labels=None, **kwargs):
    """Return the call of a loss with tensors of these shapes, and labels of another."""
    import torch

    arrays = [torch.ones(shape) for shape in shapes] + ([torch.ones(labels, dtype=torch.int64)] if labels else [])
    kwargs = {key: torch.empty(shape) for key, shape in kwargs.items()}
    return fl.value_and_grad(getattr(fl, name)), arrays, kwargs


_ROWS = (64, 10)
DEVICE_KINDS = {
    "mse": (lambda: _device("mse_loss", _ROWS, _ROWS), DEVICE),
    "mse with grad_out": (lambda: _device("mse_loss", _ROWS, _ROWS, grad_out=_ROWS), DEVICE),
    "mse in several blocks": (lambda: _device("mse_loss", (640, 64), (640, 64)), DEVICE),
    "binary_cross_entropy_with_logits": (
        lambda: _device("binary_cross_entropy_with_logits", _ROWS, _ROWS),
        DEVICE,
    ),
    "cross_entropy with labels checked": (lambda: _device("cross_entropy", _ROWS, labels=(64,)), DEVICE_WITH_LABELS),
    "nll with labels checked": (lambda: _device("nll_loss", _ROWS, labels=(64,)), DEVICE_WITH_LABELS),
    "multilabel_margin with labels checked": (
        lambda: _device("multilabel_margin_loss", _ROWS, labels=_ROWS),
        DEVICE_WITH_LABELS,
    ),
    "cosine_embedding": (lambda: _device("cosine_embedding_loss", _ROWS, _ROWS, (64,)), DEVICE),
    "triplet_margin": (lambda: _device("triplet_margin_loss", _ROWS, _ROWS, _ROWS), DEVICE),
}


def counts_on_device():
    """Return the steps of each kind of call of arrays on a GPU."""
    _on_device()
    found = {}
    for kind, (make, _) in DEVICE_KINDS.items():
        function, args, kwargs = make()
        found[kind] = repeated(function, *args, **kwargs)
    return found


def count(kind):
    """Return the steps of a call of a kind, two threads at work where the call is large enough."""
    with fl.config(num_threads=2):
        if kind == FIRST_VISIT:
            return _first_visit()
        function, args, kwargs = KINDS[kind][0]()
        return repeated(function, *args, **kwargs)


def main():
    """Print the steps of each kind of call, beside the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the counts, and 2 %% more, as the table")
    parser.add_argument("--json", action="store_true", help="print nothing but the counts, as JSON")
    parser.add_argument("--device", action="store_true", help="count calls of arrays on a GPU")
    given = parser.parse_args()
    table = json.loads(TABLE.read_text()) if TABLE.exists() else {"counts": {}, "device": {}}
    part, bars = (
        ("device", {kind: bar for kind, (_, bar) in DEVICE_KINDS.items()}) if given.device else ("counts", BARS)
    )
    kinds = [kind for kind in BARS if "torch" not in kind or importlib.util.find_spec("torch")]
    counts = counts_on_device() if given.device else {kind: count(kind) for kind in kinds}
    if given.json:
        print(json.dumps(counts))
        return
    print(f"{'steps':>8} {'table':>8} {'bar':>8}  kind (Python {VERSION})")
    for kind, found in counts.items():
        print(f"{found:8} {table.get(part, {}).get(kind, '-'):>8} {bars[kind]:8}  {kind}")
    if given.write:
        kept = {kind: min(math.ceil(found * 1.02), max(found, bars[kind])) for kind, found in counts.items()}
        TABLE.write_text(json.dumps({**table, "python": VERSION, part: kept}, indent=2) + "\n")


if __name__ == "__main__":
    main()
