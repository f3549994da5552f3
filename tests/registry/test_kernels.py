"""What kernels share: starts that are noted down, the compiler's verdict, why a kernel cannot run."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from longatlas import LongAtlasError
from longatlas.kernels import check_contiguous, launch, obstacle, padded, processors, recorded_launches
from longatlas.kernels.limits import case_obstacle
from longatlas.testing.compiled import Compiled


def test_recorded_launches_start_nothing():
    def kernel() -> None:
        raise AssertionError("it was started")

    x = torch.zeros(3)
    with recorded_launches() as launches:
        launch(kernel, (2,), x=x, warps=8, stages=3, registers=255)
        launch(kernel, (0, 5), x=x)
    (found,) = launches
    assert (found.name, found.grid, found.warps, found.stages, found.registers) == ("kernel", (2,), 8, 3, 255)
    assert found.arguments["x"] is x


def test_what_does_not_fit_is_told():
    fits = Compiled("scan", 80, 160 * 1024, 255, 0, {"wgmma": 0, "mma": 8})
    fits.check()
    dataclasses.replace(fits, spilled=16).check()
    with pytest.raises(
        LongAtlasError, match=r"kernel scan needs 204800 bytes of shared memory on sm_80, which has 166912"
    ):
        dataclasses.replace(fits, shared=200 * 1024).check()
    dataclasses.replace(fits, shared=200 * 1024, capability=90).check()
    with pytest.raises(LongAtlasError, match="kernel scan spills 32 bytes per thread on sm_80"):
        dataclasses.replace(fits, spilled=32).check()


def test_obstacles():
    half = torch.zeros(1, 2, 1, 20, dtype=torch.bfloat16)
    assert "q is on cpu; impl='triton' runs on an NVIDIA GPU" in obstacle(q=half)
    with recorded_launches():
        assert obstacle(q=half) == "q has head size 20"
        assert "q has dtype torch.float64" in obstacle(q=half.double())
        assert obstacle(q=half[..., :16]) == ""
    assert case_obstacle("bfloat16", 256) == case_obstacle("", None) == ""
    assert "no float64" in case_obstacle("float64", 64)


def test_sizes():
    assert [padded(n) for n in (1, 16, 17, 48, 256)] == [16, 16, 32, 64, 256]
    assert processors(torch.device("cpu")) > 0
    with pytest.raises(LongAtlasError, match=r"q has shape \[3, 2\] and strides \[1, 3\].*pass q.contiguous\(\)"):
        check_contiguous(q=torch.zeros(2, 3).T)
