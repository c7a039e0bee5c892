"""Loops are compiled to 512-bit vectors for CPUs that have them: shown by compiling for one, whatever this CPU is."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="vectors of x86"),
]

FEATURES = "avx,avx2,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,bmi,bmi2,cx16,f16c,fma,lzcnt,movbe,popcnt,sse4.2"

# Compiles every kernel that is called and calls none: this CPU may lack the instructions.
COMPILE = """
import json, re
import numpy as np
import fastloss
from fastloss.runtime import compile as _jit

found = {}

class Compiled:
    def __init__(self, dispatcher):
        self.dispatcher, self.overloads = dispatcher, {}

    def typeof_pyval(self, value):
        return self.dispatcher.typeof_pyval(value)

    def compile(self, signature):
        self.dispatcher.compile(signature)
        name = self.dispatcher.__name__.rsplit("_", 1)[0]
        lines = self.dispatcher.inspect_asm(signature).splitlines()
        sums = [line for line in lines if re.search(r"\\tv(fn?m(add|sub)\\d+|mul|add|sub)ps", line)]
        widths = [re.search("%([xyz]mm)", line)[1] for line in sums]
        found[name] = {width: widths.count(width) for width in ("ymm", "zmm")}
        found[name]["streamed"] = sum(bool(re.search(r"\\tvmovntp[sd]\t%zmm", line)) for line in lines)
        found[name]["masked"] = sum(bool(re.search(r"\\tvmovup[sd]\t-?\\d*\\(%r\\w+,.*{%k", line)) for line in lines)
        labelled = hasattr(self.dispatcher.overloads[signature].signature.return_type, "types")
        return lambda *args: (-1, 0.0) if labelled else 0.0

made = _jit.Kernel.__init__

def make(self, name, body):
    made(self, name, body)
    self.compiled = Compiled(self.compiled)

_jit.Kernel.__init__ = make
rows = lambda classes: (np.zeros((20, classes), np.float32), np.zeros(20, np.int64))
pair = np.full(700, 0.5, np.float32), np.zeros(700, np.float32)
for call, args in [
    (fastloss.mse_loss, pair),
    (fastloss.binary_cross_entropy, pair),
    (fastloss.binary_cross_entropy_with_logits, pair),
    (fastloss.cross_entropy, rows(10)),
    (fastloss.cross_entropy, rows(100)),
    (fastloss.cross_entropy, rows(1000)),
    (fastloss.triplet_margin_loss, (rows(100)[0],) * 3),
]:
    fastloss.value_and_grad(call)(*args)
for call in (fastloss.mse_loss, fastloss.binary_cross_entropy_with_logits):
    fastloss.value_and_grad(call)(*pair, sample_weight=pair[0])

from fastloss.cpu.loops import elementwise, pairwise, rowwise

for module in (elementwise, pairwise, rowwise):
    module.are_streamed = module.moves_enough = lambda *args: True
long = np.full(40_000, 0.5, np.float32), np.zeros(40_000, np.float32)
for call, args in [
    (fastloss.mse_loss, long),
    (fastloss.binary_cross_entropy_with_logits, long),
    (fastloss.cross_entropy, (np.zeros((400, 100), np.float32), np.zeros(400, np.int64))),
    (fastloss.cross_entropy, (np.zeros((40, 1000), np.float32), np.zeros(40, np.int64))),
    (fastloss.triplet_margin_loss, (np.zeros((400, 112), np.float32),) * 3),
]:
    fastloss.value_and_grad(call)(*args)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    """Return how many multiplications and additions of 256 and 512 bits each kernel has."""
    environment = {
        **os.environ,
        "NUMBA_CPU_NAME": "skylake-avx512",
        "NUMBA_CPU_FEATURES": ",".join(f"+{name}" for name in FEATURES.split(",")),
        "NUMBA_CACHE_DIR": str(tmp_path_factory.mktemp("cache")),
    }
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


KERNELS = [
    "elementwise_mse",
    "elementwise_bce",
    "elementwise_bce_with_logits",
    "rowwise_across_ce_row_ce_entry",
    "rowwise_along_ce_row_ce_entry",
    "rowwise_long_ce_row_ce_entry",
]


# Kernels that write past the caches, and how many results each has.
STREAMED = {
    "elementwise_streamed_mse": 1,
    "elementwise_streamed_bce_with_logits": 1,
    "pairwise_streamed_triplet_l2_row_triplet_l2_entry": 3,
    "rowwise_streamed_ce_row_ce_entry": 1,
    "rowwise_streamed_long_ce_row_ce_entry": 1,
}


def test_every_kernel_was_compiled(counts):
    assert {*KERNELS, *STREAMED} < set(counts)


@pytest.mark.parametrize("kernel", KERNELS)
def test_loops_have_vectors_of_512_bits(counts, kernel):
    """What is left of a loop has narrower ones; the loops themselves must not."""
    assert counts[kernel]["zmm"] > counts[kernel]["ymm"]


@pytest.mark.parametrize("kernel", STREAMED)
def test_results_are_streamed_in_whole_lines(counts, kernel):
    assert counts[kernel]["streamed"] >= STREAMED[kernel]


@pytest.mark.parametrize("kernel", ["elementwise_sampled22_mse", "elementwise_sampled22_bce_with_logits"])
def test_operands_are_read_whatever_their_weight_is(counts, kernel):
    """Loads that wait for a mask are not read ahead."""
    assert counts[kernel]["masked"] == 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_other_results_go_through_the_caches(counts, kernel):
    assert counts[kernel]["streamed"] == 0
