"""What Triton's compiler makes of a kernel for a GPU that need not be there: shared memory, registers, instructions.

with recorded_launches() as launches:
    lightning_attention(q, k, v, decay, impl="triton")
for launch in launches:
    compiled = compile_launch(launch, capability=90)
    compiled.check()
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from longatlas.errors import LongAtlasError
from longatlas.kernels import Launch

# Bytes of shared memory that one program may have, by compute capability.
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}
# Bytes per thread. ptxas gives up a register or two to fit one more program, in other kernels with each release.
FEW_SPILLED = 16
_DTYPES = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.bool: "i1",
}


@dataclass(frozen=True)
class Compiled:
    """One kernel for one kind of GPU.

    shared       bytes of shared memory per program
    registers    per thread; spilled: bytes per thread that did not fit into them
    matmuls      of the kind of instruction ("wgmma", "mma"), how many stand in the code
    """

    name: str
    capability: int
    shared: int
    registers: int
    spilled: int
    matmuls: dict[str, int]

    def check(self) -> None:
        """Raises LongAtlasError where it does not fit or spills more than FEW_SPILLED bytes per thread."""
        limit = SHARED_MEMORY[self.capability]
        if self.shared > limit:
            raise LongAtlasError(
                f"kernel {self.name} needs {self.shared} bytes of shared memory on sm_{self.capability}, which has "
                f"{limit}; make its tiles smaller or run fewer stages ahead"
            )
        if self.spilled > FEW_SPILLED:
            raise LongAtlasError(
                f"kernel {self.name} spills {self.spilled} bytes per thread on sm_{self.capability} "
                f"({self.registers} registers), more than {FEW_SPILLED}; make its tiles smaller or give it more warps"
            )


def compile_launch(launch: Launch, capability: int) -> Compiled:
    """Compile what a launch would start for compute capability 80 or 90. Triton must not be interpreting."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if not isinstance(launch.kernel, triton.JITFunction):
        raise LongAtlasError(
            f"kernel {launch.name} was defined under TRITON_INTERPRET=1; unset it before triton is imported"
        )
    signature, constants, attributes = _signature(launch)
    source = ASTSource(launch.kernel, signature, constants, attributes)
    options = {"num_warps": launch.warps, "num_stages": launch.stages, "maxnreg": launch.registers}
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    registers, spilled = _resources(made.asm["cubin"])
    code = made.asm["ptx"]
    matmuls = {"wgmma": code.count("wgmma.mma_async"), "mma": len(re.findall(r"\bmma\.sync", code))}
    return Compiled(launch.name, capability, made.metadata.shared, registers, spilled, matmuls)


def _signature(launch: Launch) -> tuple[dict[str, str], dict[str, Any], dict[tuple[int, ...], list[list[Any]]]]:
    """Types, constants and alignments of the arguments, as a start on a GPU would specialise them."""
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for i, parameter in enumerate(launch.kernel.params):
        value = launch.arguments.get(parameter.name, parameter.default)
        is_one = type(value) is int and value == 1 and not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or is_one:
            signature[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        signature[parameter.name] = _type_of(value)
        if isinstance(value, torch.Tensor) or (
            isinstance(value, int) and value % 16 == 0 and not parameter.do_not_specialize
        ):
            attributes[(i,)] = [["tt.divisibility", 16]]
    return signature, constants, attributes


def _type_of(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"*{_DTYPES[value.dtype]}"
    if isinstance(value, bool):
        return "i1"
    if isinstance(value, int):
        return "i32" if -(2**31) <= value < 2**31 else "i64"
    return "fp32"


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers, and bytes of stack and local memory, per thread."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(_cuobjdump()), "-res-usage", file.name]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    numbers = dict(re.findall(r"\b(REG|STACK|LOCAL):(\d+)", found))
    return int(numbers["REG"]), int(numbers["STACK"]) + int(numbers["LOCAL"])


@lru_cache(maxsize=1)
def _cuobjdump() -> Path:
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
