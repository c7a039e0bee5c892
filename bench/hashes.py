"""Hashes of what the losses compute, to see whether a change of the code changed a bit.

``python bench/hashes.py NAME.json`` computes the SHA-256 of the results of every case of ``tests/cases.py``, the first
case of a loss in all dtypes, layouts, reductions and transforms, and of some large calls. ``python bench/hashes.py
--compare OLD.json NEW.json`` lists what differs. Only hashes of one machine can be compared: vector widths and the
libraries of BLAS differ. The checkout that holds this file is what is computed, unless ``--checkout`` names another.
"""

import argparse
import collections
import hashlib
import json
import multiprocessing
import sys
import warnings
from pathlib import Path

import numpy as np

TORCH_LAYOUT = "torch"
LAYOUTS = ("C", "transposed", "read-only", "strided", TORCH_LAYOUT)
LARGE = {  # of the main losses: rows short, long and very long, elements, and products of matrices
    "cross_entropy": [{"input": (n, c), "target": ("class", (n,))} for n, c in ((2000, 100), (700, 1000), (4, 200000))],
    "softmax": [{"input": shape} for shape in ((2000, 100), (700, 1000), (4, 200000))],
    "nll_loss": [{"input": (2000, 100), "target": ("class", (2000,))}],
    "multi_margin_loss": [{"input": (2000, 100), "target": ("class", (2000,))}],
    "multilabel_margin_loss": [{"input": (2000, 100), "target": ("class_list", (2000, 100))}],
    "cosine_embedding_loss": [{"input1": (2000, 100), "input2": (2000, 100), "target": ("sign", (2000,))}],
    "triplet_margin_loss": [{"anchor": (2000, 100), "positive": (2000, 100), "negative": (2000, 100)}],
    "mse_loss": [{"input": (2**18,), "target": (2**18,)}],
    "smooth_l1_loss": [{"input": (2**18,), "target": (2**18,)}],
    "binary_cross_entropy_with_logits": [{"input": (2**18,), "target": ("probability", (2**18,))}],
    "kl_div": [{"input": ("log_probability", (512, 512)), "target": ("probability", (512, 512))}],
    "linear_cross_entropy": [{"input": (512, 64), "linear_weight": (2000, 64), "target": ("index", (512,))}],
}


def digest(result):
    """Return the hash of a result: of the kind of each array, its dtype, its shape and its bytes."""
    state = hashlib.sha256()

    def feed(part):
        if isinstance(part, (tuple, list)):
            state.update(f"{type(part).__name__}{len(part)}".encode())
            for each in part:
                feed(each)
            return
        state.update(type(part).__name__.encode())
        if hasattr(part, "detach"):
            state.update(str(part.dtype).encode())
            torch = sys.modules["torch"]
            part = part.contiguous()
            part = (part.view(torch.int16) if part.dtype == torch.bfloat16 else part).numpy()
        part = np.asarray(part)
        state.update(f"{part.dtype}{part.shape}".encode() + part.tobytes())

    feed(result)
    return state.hexdigest()


def outcome(function, *args, **kwargs):
    """Return the hash of what a call returns, or the error that it raises."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return digest(function(*args, **kwargs))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def laid_out(array, layout):
    """Return an array in another layout, with the same numbers."""
    if layout == "transposed":
        return np.asfortranarray(array)
    if layout == "strided":
        return np.repeat(array, 2, axis=-1)[..., ::2] if array.ndim else array
    if layout == TORCH_LAYOUT:
        import torch

        if array.dtype.name == "bfloat16":
            return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
        return torch.from_numpy(np.array(array))
    array = array.copy()
    array.flags.writeable = layout != "read-only"
    return array


def like(array):
    """Return zeros of the kind, shape and dtype of an array, in C order."""
    if hasattr(array, "detach"):
        return array.new_zeros(array.shape)
    return np.zeros(array.shape, array.dtype)


def written(transform, arrays, **options):
    """Return a result whose gradients go into arrays that were given, and these."""
    _, gradients = transform(**arrays, **options)
    into = tuple(map(like, gradients)) if isinstance(gradients, tuple) else like(gradients)
    return transform(**arrays, **options, grad_out=into), into


def replaced(transform, arrays, name, **options):
    """Return a result whose gradient replaces the argument that it is taken of, and all arguments after it."""
    return transform(**arrays, **options, grad_out=arrays[name]), tuple(arrays.values())


def compute(case, dtype, layout, extent):
    """Yield (key, hash) of the calls of a case; `extent` is "all", "main" (no transform but the default) or "value"."""
    import fastloss as fl

    given = case.make(dtype, seed=1)
    arrays = {name: laid_out(array, layout) for name, array in given.items()}
    gradient = fl.value_and_grad(case.function)
    wrt = case.wrt(given)
    first = case.record.wrt[0]
    for reduction in case.reductions:
        options = {**case.options, **reduction}
        key = f"{case}|{dtype}|{layout}|{reduction.get('reduction', '-')}|"
        yield key + "value", outcome(case.function, **arrays, **options)
        if extent == "value":
            continue
        yield key + "value_and_grad", outcome(gradient, **arrays, **options)
        if extent == "main":
            continue
        yield key + "wrt all", outcome(fl.value_and_grad(case.function, wrt=wrt), **arrays, **options)
        if case.record.hessian is not None:
            yield key + "grad_and_hess", outcome(fl.grad_and_hess(case.function), **arrays, **options)
        yield key + "grad_out", outcome(written, gradient, arrays, **options)
        own = {name: laid_out(array, layout) for name, array in given.items()}
        yield key + "in place", outcome(replaced, fl.value_and_grad(case.function, first), own, first, **options)
        try:
            value = np.asarray(case.call(given, **reduction))
        except Exception:  # its hash above is that of the error
            continue
        factor = np.random.default_rng(2).normal(size=value.shape).astype(value.dtype)
        factor = laid_out(factor, layout) if value.ndim else float(factor)
        yield key + "grad_output", outcome(gradient, **arrays, **options, grad_output=factor)


def cases_of(loss):
    """Yield what is computed of a loss: (case, dtype, layout, extent, number of threads)."""
    import cases

    own = [case for case in cases.ACTIVE if case.loss == loss]
    dtypes = tuple(cases.DTYPES)
    for layout in LAYOUTS:
        for dtype in dtypes:
            full = layout == "C" or (layout == "transposed" and dtype != "bfloat16")
            yield own[0], dtype, layout, "all" if full else "main", 2
    yield own[0], "float32", "C", "all", 1
    for case in own[1:]:
        for dtype in dtypes:
            if dtype in ("float64", "float32") or case not in cases.HEAVY:
                yield case, dtype, "C", "all" if dtype == "float64" else "main", 2
        yield case, "float32", "transposed", "main", 2
    for shapes in LARGE.get(loss, ()):
        case = cases.Case(loss, shapes, own[0].options)
        for threads in (1, 2):
            for dtype in dtypes:
                yield case, dtype, "C", "main", threads
        yield case, "float32", "transposed", "main", 2
        yield case, "float32", "strided", "main", 2
        yield case, "float32", TORCH_LAYOUT, "main", 2


def elsewhere():
    """Yield (key, hash) of the losses whose arguments are not arrays alone."""
    import fastloss as fl

    rng = np.random.default_rng(5)
    for dtype in ("f8", "f4", "f2"):
        x = rng.normal(size=(40, 8)).astype(dtype)
        for loss in (fl.l1_penalty, fl.l2_penalty):
            for params in (x, [x, x[:3].copy()], np.asfortranarray(x), np.resize(x, 2**18)):
                key = f"{loss.__name__}|{dtype}|{type(params).__name__}{np.size(params[0])}|"
                yield key + "value", outcome(loss, params, 0.3)
                yield key + "value_and_grad", outcome(fl.value_and_grad(loss), params, 0.3)
        tails = [(rng.normal(size=(4, 8)), rng.normal(size=(6, 4))), (rng.normal(size=(2, 8)), rng.normal(size=(9, 2)))]
        arrays = {
            "input": x,
            "target": rng.integers(20, size=40),
            "head_weight": rng.normal(size=(7, 8)).astype(dtype),
            "tail_weights": [tuple(w.astype(dtype) for w in pair) for pair in tails],
            "cutoffs": [5, 11],
            "head_bias": rng.normal(size=7).astype(dtype),
        }
        loss = fl.adaptive_log_softmax_with_loss
        for wrt in (None, ("input", "head_weight", "head_bias", "tail_weights")):
            key = f"{loss.__name__}|{dtype}|{wrt}|"
            yield key + "value", outcome(loss, **arrays)
            yield key + "value_and_grad", outcome(fl.value_and_grad(loss, wrt=wrt), **arrays)


def hashes(task):
    """Return {key: hash} of a loss, computed from a checkout; of the losses with other arguments for an empty name."""
    loss, checkout = task
    _import_from(checkout)
    if not loss:
        return dict(elsewhere())
    import fastloss as fl

    found = {}
    for case, dtype, layout, extent, threads in cases_of(loss):
        with fl.config(num_threads=threads):
            for key, value in compute(case, dtype, layout, extent):
                found[f"{key}|{threads} threads"] = value
    return found


def _import_from(checkout):
    for folder in (str(checkout / "tests"), str(checkout)):
        if folder not in sys.path:
            sys.path.insert(0, folder)


def names(checkout):
    """Return the losses of a checkout that have cases, and an empty name for those that have none."""
    _import_from(checkout)
    import cases

    return [*dict.fromkeys(case.loss for case in cases.ACTIVE), ""]


def compare(old, new):
    """Print what two files of hashes do not agree on, and return the number of such keys."""
    before, after = (json.loads(Path(path).read_text()) for path in (old, new))
    differing = [key for key in before if key in after and before[key] != after[key]]
    sides = {"differs": differing, "missing": before.keys() - after.keys(), "new": after.keys() - before.keys()}
    for what, keys in sides.items():
        for key in sorted(keys):
            print(f"{what}: {key}")
            errors = [side[key] for side in (before, after) if ": " in side.get(key, "")]
            for error in errors:
                print(f"    {error}")
    for what, keys in sides.items():
        losses = collections.Counter(key.partition("-")[0].partition("|")[0] for key in keys)
        print(f"{len(keys)} of {len(before)} {what}", *(f"  {loss}: {n}" for loss, n in losses.items()), sep="\n")
    return len(differing) + len(sides["missing"])


def main():
    """Write a file of hashes, or compare two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE", help="the file to write, or two to compare")
    parser.add_argument("--compare", action="store_true", help="compare two files; status 1 where they differ")
    parser.add_argument("--checkout", type=Path, default=Path(__file__).resolve().parents[1], help="what to compute")
    parser.add_argument("--jobs", type=int, default=1, help="processes at work; results do not depend on it")
    parser.add_argument("--loss", action="append", help="this one only (may be repeated)")
    given = parser.parse_args()
    if given.compare:
        return compare(*given.files) > 0
    tasks = [(loss, given.checkout) for loss in given.loss or names(given.checkout)]
    found = {}
    # A process for each loss: compiled code is never given back.
    with multiprocessing.get_context("spawn").Pool(given.jobs, maxtasksperchild=1) as pool:
        for (loss, _), part in zip(tasks, pool.imap(hashes, tasks, chunksize=1), strict=True):
            found |= part
            print(f"{len(part):5} {loss or 'others'}", file=sys.stderr, flush=True)
    Path(given.files[0]).write_text(json.dumps(found, indent=0, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
