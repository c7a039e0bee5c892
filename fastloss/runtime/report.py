"""What this process runs on: versions, processor, threads, cache, GPUs."""

from __future__ import annotations

import platform
from importlib import import_module, metadata, util
from pathlib import Path
from typing import Any

from fastloss.runtime.kernel_cache import folders, is_off
from fastloss.runtime.settings import available_cores, settings, thread_count
from fastloss.runtime.version import __version__

# Distributions whose versions matter to a report; those that are not installed are left out.
_GUESTS = ("torch", "cupy", "cupy-cuda12x", "cupy-cuda13x", "numba-cuda", "scikit-learn", "scipy", "ml_dtypes")


def show_config() -> None:
    """Print versions, processor, threads, cache folder and GPUs: what a bug report or a measurement needs.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.show_config()  # doctest: +SKIP
    fastloss      0.1.0
    python        3.11.7
    ...
    """
    for name, value in facts().items():
        print(f"{name:<14}{value}")


def facts() -> dict[str, str]:
    """Return what :func:`show_config` prints, name by name."""
    found = {
        "fastloss": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for name in ("numpy", "numba", "llvmlite", *_GUESTS):
        version = _version(name)
        if version is not None:
            found[name] = version
    found["processor"] = _processor()
    found["SIMD"] = _simd()
    found["threads"] = f"{thread_count()} of fastloss's own pool, on {available_cores()} cores available"
    found["recycled"] = f"up to {settings.recycled_bytes >> 20} MiB of the memory of dropped results"
    found["index checks"] = "on" if settings.check_indices else "off"
    found["kernel cache"] = _cache_folder()
    found["GPUs"] = "; ".join(_gpus())
    return found


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """Return the name of the processor as the system gives it, with its family where that says nothing of its age."""
    with_name = Path("/proc/cpuinfo")
    text = with_name.read_text(errors="replace") if with_name.exists() else ""
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    name = facts.get("model name")
    if name is None:
        return platform.processor() or platform.machine()
    if any(letter.isdigit() for letter in name) or "cpu family" not in facts:
        return name
    return f"{name} (family {facts['cpu family']}, model {facts.get('model', '?')})"


def _simd() -> str:
    """Return the widest vectors that the compiler may use here."""
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    for feature, text in (("avx512f", "512 bits (AVX-512)"), ("avx2", "256 bits (AVX2)"), ("avx", "256 bits (AVX)")):
        if features.get(feature):
            return text
    return "128 bits"


def _cache_folder() -> str:
    if is_off():
        return "off (FASTLOSS_CACHE)"
    writable, readable = folders()
    if writable is not None:
        return str(writable)
    also = f"{', '.join(map(str, readable))}, which cannot be written" if readable else "none"
    return f"{also} (set FASTLOSS_CACHE_DIR)"


def _gpus() -> list[str]:
    """Return a line for each CUDA device; whatever goes wrong on the way is said, not raised."""
    if util.find_spec("numba_cuda") is None:
        return ["not looked for: pip install 'fastloss[cu13]' or 'fastloss[cu12]'"]
    try:
        cuda: Any = import_module("numba.cuda")

        if not cuda.is_available():
            return ["none found"]
        return [_described(device) for device in cuda.gpus]
    except Exception as error:  # a driver that is too old or half installed raises many kinds of errors
        return [f"none usable ({type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''})"]


def _described(device: Any) -> str:
    name = device.name.decode() if isinstance(device.name, bytes) else device.name
    major, minor = device.compute_capability
    return f"{device.id}: {name}, compute capability {major}.{minor}"
