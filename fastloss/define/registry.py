"""The registry of losses, the decorators that fill it, and the design note of the package.

How the pieces fit
------------------
A loss is two things in one file of ``losses/``:

* *maths*: a small plain function on scalars, marked :func:`jitable`, that returns the value and every derivative
  together. What a kernel does not use, the compiler deletes, so a forward-only kernel pays nothing for them.
* *a public function* with torch's signature, marked :func:`loss`, whose body only **describes** the computation: it
  returns an ``Elementwise``, ``Rowwise``, ``Pairwise`` or ``Projected`` (:mod:`fastloss.define.descriptions`) that names the maths
  and the arrays. The decorator turns it into a function that runs the description. (An ``Alignment`` names no maths: a
  recursion over a sequence is written by hand for each backend.)

Because the body describes and does not compute, one definition serves the value, the transforms
(:mod:`fastloss.api.transforms`) and the loss classes (:mod:`fastloss.nn.modules`), and its signature and docstring are the
real ones. A description goes down one path::

    losses/regression.py::huber_loss -> _call.py (shapes, dtypes, outputs) -> _dispatch.py (where the arrays lie)
        -> cpu/elementwise.py or cuda/elementwise.py (loops) -> losses/regression.py::huber (the maths)

Decisions and their reasons
---------------------------
* Maths modules import no numba. :func:`jitable` only records a function; a backend registers those of the past and
  those to come when it loads (:func:`add_backend`). The CUDA backend loads with the first array on a GPU.
* Kernels are specialised by argument *types*. An absent array is ``()``; reading it yields the neutral element and
  writing to it does nothing (``cpu/access.py``). One loop thus serves value, gradient and Hessian, weighted or not,
  and there are no flags to get wrong.
* A mistake in the maths of a loss that is added is found before the compiler meets it (``_maths.py``): each function is
  called once with plain numbers.
* Half types travel as integers: float16 as int16 bits, bfloat16 as uint16 bits, so that the type of an array tells
  the kernel how to read it.
* Row losses see entries less the row's maximum. A shift of the logits then cannot change a bit of anything but
  ``logsumexp``, and no loss has to think about overflow.
* Row losses run *along* rows when the class axis is contiguous and long, *across* rows (a transposed tile, one row
  per SIMD lane) when it is short or strided, and in pieces where rows are few and very long. All call the same maths.
* A loss behind a linear map (``_projected.py``, ``_clustered.py``) leaves the products to the library and keeps the
  logits of one chunk of rows: the gradient replaces them in place, and the sums over chunks are in the computing type.
* A kernel is one nogil function that claims chunks from a board; threads of our own call it together
  (:mod:`fastloss.runtime.threads` says why not ``prange``). Sums go chunk by chunk into slots that are combined in order, and
  the number of chunks follows from the size of the problem alone: the same input gives the same bits on any number of
  threads, and one compiled function serves small and large calls.
* Plain NumPy arrays (equal shapes, contiguous, one dtype) take a short way to the same kernels
  (:mod:`fastloss.call.quick`): what the calling path decides is kept for the next call with such dtypes, shapes and
  options. So do torch tensors of that kind. The last kind of call is kept as straight code (:mod:`fastloss.call.straight`),
  in which Python has half as much to do.
* Large results lie in recycled memory (``cpu/recycling.py``), because pages that the operating system has to zero cost
  as much as a loss. What is kept idle is bounded, and from 16 MiB on the system's to take.
* A float64 sum inside a loop of float32 would halve the lanes of everything in that loop: values go to a tile on the
  stack first, or are summed in float32 over a few hundred entries.
* Maths may have a second version for targets that are all 0 or 1 (:func:`hard_targets`): a logarithm less is worth the
  test of each tile, where the general version is bound by its arithmetic.
* On a GPU warps and blocks copy their row to shared memory and visit it there (``cuda/shelf.py``): the rows that a
  multiprocessor works on are together larger than its L1 cache. (Reasoned: no device was there to compare the two on.)
* CUDA kernels are compiled and cached by Numba and started by us through the driver (``cuda/launch.py``): Numba's own
  launch costs more than the whole call should. A lone block divides its sum itself, which saves small batches a kernel.
* The loop along a long row asks the caches for the next block and for the lines of the gradient while it computes
  exponentials. cross_entropy of 1000 classes gains a third on an EPYC with 256-bit vectors, two threads to a core,
  and a fifth on a Xeon with 512-bit vectors. Loops of elements ask for nothing: there it costs time.
* Large results are written past the caches (``cpu/streaming.py``), by kernels of their own that are compiled when they
  are first needed: up to a third less time on an EPYC, a few percent on a Xeon.
* Losses that are more than one loop are job descriptions of their own with a module each on the calling path:
  ``Projected`` and ``Clustered`` (matrix products of the library that owns the arrays, our kernels on chunks in place),
  ``Alignment`` (CTC), ``LabelSets``, ``OfDistances``, ``Penalty``.
* Reading and writing memory expands in place to LLVM instructions (``cpu/emission.py``) rather than through small
  jitted functions, each of which would cost 20 ms of compilation per combination of types.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

from fastloss.define.options import REDUCTION, Domain
from fastloss.define.descriptions import FAMILIES, KINDS, Loss

P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., Any])

LOSSES: dict[str, Loss] = {}

_jitables: list[Callable[..., Any]] = []
_backends: list[Callable[[Callable[..., Any]], object]] = []


def jitable(function: F) -> F:
    """Record `function` as one that kernels may call, and return it unchanged."""
    _jitables.append(function)
    for register in _backends:
        register(function)
    return function


def hard_targets(point: Callable[..., Any]) -> Callable[[F], F]:
    """Record a function as what elementwise maths comes to where every target, its second operand, is 0 or 1.

    The CPU's loop takes it for tiles of such targets, unless the derivative with respect to them is wanted: what it
    returns may differ in the last bits only.
    """

    def record(function: F) -> F:
        point.hard = jitable(function)  # type: ignore[attr-defined]
        return function

    return record


def add_backend(register: Callable[[Callable[..., Any]], object]) -> None:
    """Have `register` called with every jitable function, those of the past and those to come."""
    _backends.append(register)
    for function in _jitables:
        register(function)


def loss(
    family: str,
    *,
    wrt: tuple[str, ...] = ("input",),
    differentiable: tuple[str, ...] | None = None,
    hessian: str | None = "exact",
    options: Mapping[str, Domain] | None = None,
    domains: Mapping[str, str] | None = None,
    legacy: bool = False,
    also: tuple[str, ...] = (),
) -> Callable[[Callable[P, Any]], Callable[P, Any]]:
    """Register a function that describes a loss, and return one that computes it.

    The parameters are the fields of :class:`fastloss.define.descriptions.Loss`; `options` gets the domain of ``reduction`` unless it
    brings its own.

    Raises
    ------
    ValueError
        If `family` or a kind of `domains` is unknown, `differentiable` lacks one of `wrt`, or the name is taken.
    """
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
    for argument, kind in (domains or {}).items():
        if kind not in KINDS:
            raise ValueError(f"domains[{argument!r}] must be one of {', '.join(KINDS)}, got {kind!r}")
    if differentiable is not None and not set(wrt) <= set(differentiable):
        raise ValueError(f"differentiable must name all of wrt={wrt!r}, got {differentiable!r}")

    def register(describe: Callable[P, Any]) -> Callable[P, Any]:
        from fastloss.call.call import Call
        from fastloss.define.check_maths import check_maths
        from fastloss.call.outputs import VALUE

        name = describe.__name__
        sound: set[Any] = set()
        latest: Any = None

        @functools.wraps(describe)
        def described(*args: P.args, **kwargs: P.kwargs) -> Any:
            nonlocal latest
            job = describe(*args, **kwargs)
            if isinstance(job, tuple) and job[0] is not latest:  # small calls count this; a loss may have several maths
                maths = getattr(job, "point", None) or getattr(job, "maths", None)
                if maths not in sound:
                    check_maths(record, job, _jitables)
                    sound.add(maths)
                latest = maths
            return job

        @functools.wraps(describe)
        def function(*args: P.args, **kwargs: P.kwargs) -> Any:
            return call.run(args, kwargs, VALUE)

        domain_of = {"reduction": REDUCTION} if "reduction" in (describe.__kwdefaults__ or {}) else {}
        record = Loss(
            name=name,
            family=family,
            function=function,
            describe=described,
            wrt=wrt,
            differentiable=wrt if differentiable is None else differentiable,
            hessian=hessian,
            options={**domain_of, **(options or {})},
            domains=domains or {},
            legacy=legacy,
            also=also,
        )
        if name in LOSSES:
            raise ValueError(f"loss {name!r} is registered twice")
        call = Call(record, VALUE, {})
        LOSSES[name] = record
        function.__fastloss__ = record  # type: ignore[attr-defined]
        return function

    return register


# torch's deprecated pair of options.
LEGACY = frozenset(("size_average", "reduce"))


def check_options(record: Loss, kwargs: dict[str, Any]) -> None:
    """Check the options in `kwargs` against their domains; map size_average and reduce to reduction in place."""
    if record.legacy and not LEGACY.isdisjoint(kwargs):
        _map_legacy_reduction(kwargs)
    domains = record.options
    for name, value in kwargs.items():
        if name in domains:
            domains[name].check(name, value)


def refuse_options(instance: Any, named: dict[str, Any], options: Iterable[str]) -> None:
    """Raise if a call of an instance of a loss class names one of the `options`, which are bound."""
    bound = named.keys() & LEGACY.union(options)
    if bound:
        raise TypeError(f"{type(instance).__name__} is called with arrays: {min(bound)} is an option of the class")


def _map_legacy_reduction(kwargs: dict[str, Any]) -> None:
    """Replace torch's deprecated pair by the reduction that it means."""
    average = kwargs.pop("size_average", None)
    reduce = kwargs.pop("reduce", None)
    if average is None and reduce is None:
        return
    average, reduce = average is not False, reduce is not False
    kwargs["reduction"] = ("mean" if average else "sum") if reduce else "none"
    from fastloss.runtime.stacklevel import stacklevel

    message = f"size_average and reduce are deprecated, use reduction={kwargs['reduction']!r}"
    warnings.warn(message, DeprecationWarning, stacklevel=stacklevel())


def record_of(function: Any) -> Loss:
    """Return the registry entry of a public loss function."""
    record = getattr(function, "__fastloss__", None)
    if not isinstance(record, Loss):
        raise TypeError(f"expected a loss function or a loss instance of fastloss, got {function!r}")
    return record
