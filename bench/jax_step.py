"""The loss of a training step, value and gradient under jit, through fastloss.jax and in jax.numpy.

The two alternate in one process, because what else a machine does changes from second to second. Printed are medians in
milliseconds, and the ratio of jax.numpy's to ours. Run as ``python bench/jax_step.py``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import fastloss.jax as door


def written_out(x: jax.Array, y: jax.Array) -> jax.Array:
    """Return the cross-entropy as a user of JAX writes it."""
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], axis=1))


def alternated(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median time of each call in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(3):
            jax.block_until_ready(call())
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Print a line for the chosen shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--classes", type=int, default=1000)
    chosen = parser.parse_args()
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(chosen.rows, chosen.classes)), jnp.float32)
    y = jnp.asarray(rng.integers(chosen.classes, size=chosen.rows), jnp.int32)
    theirs, ours = (jax.jit(jax.value_and_grad(loss)) for loss in (written_out, door.cross_entropy))
    times = alternated({"jax.numpy": lambda: theirs(x, y), "ours": lambda: ours(x, y)}, chosen.rounds)
    print(
        f"{chosen.rows}x{chosen.classes}: jax.numpy {times['jax.numpy']:.1f} ms, ours {times['ours']:.1f} ms, ", end=""
    )
    print(f"ratio {times['jax.numpy'] / times['ours']:.2f}")


if __name__ == "__main__":
    main()
