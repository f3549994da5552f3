"""Who measures: processor, GPU, driver and versions, told without loading torch."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from importlib import metadata
from pathlib import Path

LIBRARIES = ("numpy", "scipy", "safetensors", "psutil")
_ALWAYS = ("machine", "python", "torch", "libraries", "longatlas", "platform")
_ON_A_GPU = ("gpu", "driver", "triton")
_NVIDIA_SMI = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")


@lru_cache(maxsize=2)
def facts(device: str = "cpu") -> dict[str, str]:
    """What stands in every row that this process measures on a device; "" for what is not there.

    machine   processor and number of cores; of a cell on a GPU its name, too, so that no two GPUs share a setting
    gpu       names of the GPUs that this process may use, CUDA's device 0 first
    driver    version of NVIDIA's driver
    platform  such as "linux-x86_64"
    libraries  versions of the other libraries that longatlas measures with
    python, torch, triton, longatlas  versions

    Where torch is loaded, its own words about itself and the GPU count.
    """
    driver, names = _nvidia()
    gpu = _loaded_gpu(device) or ", ".join(names)
    return {
        "machine": f"{_processor()}, {gpu or 'unknown GPU'}" if device == "cuda" else _processor(),
        "gpu": gpu,
        "driver": driver,
        "python": platform.python_version(),
        "torch": _loaded_torch() or _version("torch"),
        "triton": _version("triton"),
        "libraries": ", ".join(f"{name} {version}" for name in LIBRARIES if (version := _version(name))),
        "longatlas": _version("longatlas"),
        "platform": f"{sys.platform}-{platform.machine()}",
    }


def counted(told: Mapping[str, str], device: str) -> dict[str, str]:
    """Those facts that a number on a device depends on, and its cell's key with it: on a CPU no GPU counts."""
    return {name: told.get(name, "") for name in (*_ALWAYS, *(_ON_A_GPU if device == "cuda" else ()))}


def machine_name(device: str = "cpu") -> str:
    """Processor and number of cores, such as "AMD EPYC, 2 cores", and for `cuda` the GPU's name after it."""
    return facts(device)["machine"]


def _processor() -> str:
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {os.cpu_count()} cores"


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _loaded_torch() -> str:
    """The version of the torch that this process has loaded, where the installed one is another by now."""
    loaded = str(getattr(sys.modules.get("torch"), "__version__", "")).partition("+")[0]
    return "" if loaded == _version("torch").partition("+")[0] else loaded


def _loaded_gpu(device: str) -> str:
    torch = sys.modules.get("torch")
    if device != "cuda" or torch is None or not torch.cuda.is_available():
        return ""
    return ", ".join(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))


def _nvidia() -> tuple[str, list[str]]:
    """The driver's version and the visible GPUs' names; "" and none where there is no driver."""
    for ask in (_from_nvml, _from_nvidia_smi):
        with suppress(OSError, AttributeError, subprocess.SubprocessError):
            driver, names = ask()
            return driver, names
    version = Path("/proc/driver/nvidia/version")
    told = re.search(r"Kernel Module\D*\s(\d[\d.]+)", version.read_text()) if version.exists() else None
    return told[1] if told else "", []


def _from_nvml() -> tuple[str, list[str]]:
    """Asks the driver's own library. Raises OSError where there is none, or it does not answer."""
    nvml = ctypes.CDLL("libnvidia-ml.so.1")
    if nvml.nvmlInit_v2() != 0:
        raise OSError("NVML does not start")
    try:
        number, text = ctypes.c_uint(), ctypes.create_string_buffer(96)
        nvml.nvmlSystemGetDriverVersion(text, 96)
        driver = text.value.decode()
        nvml.nvmlDeviceGetCount_v2(ctypes.byref(number))
        handles = [_handle(nvml, wanted) for wanted in _visible(number.value)]
        return driver, [_name(nvml, handle) for handle in handles]
    finally:
        nvml.nvmlShutdown()


def _handle(nvml: ctypes.CDLL, wanted: str) -> ctypes.c_void_p:
    handle = ctypes.c_void_p()
    if wanted.isdigit():
        code = nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(int(wanted)), ctypes.byref(handle))
    else:
        code = nvml.nvmlDeviceGetHandleByUUID(wanted.encode(), ctypes.byref(handle))
    if code != 0:
        raise OSError(f"NVML knows no GPU '{wanted}'")
    return handle


def _name(nvml: ctypes.CDLL, handle: ctypes.c_void_p) -> str:
    text = ctypes.create_string_buffer(96)
    nvml.nvmlDeviceGetName(handle, text, 96)
    return text.value.decode()


def _from_nvidia_smi() -> tuple[str, list[str]]:
    done = subprocess.run(_NVIDIA_SMI, capture_output=True, text=True, timeout=20, check=True)
    lines = [line.rpartition(", ") for line in done.stdout.splitlines() if line.strip()]
    wanted = [int(number) for number in _visible(len(lines)) if number.isdigit()]
    return (lines[0][2] if lines else ""), [lines[number][0] for number in wanted if number < len(lines)]


def _visible(count: int) -> list[str]:
    """The numbers or identifiers of the GPUs that CUDA_VISIBLE_DEVICES leaves, all where it is not set."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [str(number) for number in range(count)]
    names = [name.strip() for name in chosen.split(",")]
    ends = next((place for place, name in enumerate(names) if name in ("", "-1")), len(names))
    return names[:ends]
