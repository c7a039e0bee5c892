"""Log-probabilities behind a linear map, value and gradients, beside torch's code of the same memory.

``python bench/linear_log_prob.py [--rows 4096 --features 512 --classes 50000 --chunk 256 --rounds 3]`` times
``fastloss.linear_log_prob`` and what is usually written with torch for it: chunks of rows, each one's logits computed
under ``torch.utils.checkpoint`` so that they are not kept, and computed again when the gradient is. Both run in turn,
the least of the rounds counts, and results are compared.
"""

import argparse
import os
import time

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

import fastloss as fl
from fastloss.call.chunked_matmul import CHUNK_BYTES


def torch_log_prob(hidden, weight, target, chunk):
    """Return the log-probabilities of `target`, chunk by chunk of rows."""

    def of_rows(rows, labels):
        return torch.log_softmax(rows @ weight.T, -1).gather(1, labels[:, None])[:, 0]

    parts = zip(hidden.split(chunk), target.split(chunk), strict=True)
    return torch.cat([checkpoint(of_rows, rows, labels, use_reentrant=False) for rows, labels in parts])


def main():
    """Print both times, their ratio, and the largest difference of the gradients."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("rows", 4096), ("features", 512), ("classes", 50_000), ("chunk", 256), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(given.rows, given.features)).astype("f4")
    weight = (rng.normal(size=(given.classes, given.features)) * given.features**-0.5).astype("f4")
    target, upstream = rng.integers(given.classes, size=given.rows), rng.normal(size=given.rows).astype("f4")
    gradient = fl.value_and_grad(fl.linear_log_prob, wrt=("hidden", "head"))
    leaves = [torch.from_numpy(array).requires_grad_() for array in (hidden, weight)]
    labels, above = torch.from_numpy(target), torch.from_numpy(upstream)

    def ours():
        return gradient(hidden, weight, target, grad_output=upstream)

    def theirs():
        for leaf in leaves:
            leaf.grad = None
        value = torch_log_prob(*leaves, labels, given.chunk)
        value.backward(above)
        return value.detach().numpy(), [leaf.grad.numpy() for leaf in leaves]

    times = {ours: [], theirs: []}
    for _ in range(given.rounds + 1):
        for function, taken in times.items():
            start = time.perf_counter()
            found = function()
            taken.append(time.perf_counter() - start)
            if function is ours:
                value, gradients = found
    best = {function: min(taken[1:]) for function, taken in times.items()}
    gaps = [float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(gradients, found[1], strict=True)]
    threads, held = torch.get_num_threads(), 3 * 4 * given.chunk * given.classes
    print(f"{given.rows} x {given.features} by {given.classes:,}, float32, {threads} of {os.cpu_count()} threads")
    print(f"fastloss {best[ours]:.2f} s, holding logits of {CHUNK_BYTES >> 20} MiB")
    print(f"torch {best[theirs]:.2f} s, holding logits, their logarithms and a gradient, {held >> 20} MiB")
    print(f"{best[theirs] / best[ours]:.2f} times as fast; values differ by {np.abs(value - found[0]).max():.1e}")
    print(f"gradients differ by {max(gaps):.1e} of the largest")


if __name__ == "__main__":
    main()
