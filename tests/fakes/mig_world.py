"""A GPU in MIG mode for tests, as lines of the stub library."""

from __future__ import annotations

from tests.fakes.gpu_host import A
from tests.fakes.nvml_stub import device, gpu

M0, M1, M2 = (f"MIG-{n}0000000-0000-0000-0000-000000000000" for n in (1, 2, 3))


def mig_world(*last: str) -> list[list[str]]:
    """One GPU in MIG mode: GPU instance 2 with two compute instances, and GPU instance 3 with processes `last`."""
    name = "NVIDIA H200 MIG"
    return [
        gpu(0, A, mig=1, busy="!3", remapped="!3", sample="!3", memory="143000 600 50000", gpm_support=1,
            proc=["11 900 2 0", "12 700 2 1", *(last or ("22 300 3 0", "23 200 3 0"))]),
        device("0.0", uuid=M0, name=f"{name} 1c.3g.71gb", gi=2, ci=0, memory="71000 10 2000", gpm_2=64),
        device("0.1", uuid=M1, name=f"{name} 1c.3g.71gb", gi=2, ci=1, memory="71000 10 2000"),
        device("0.2", uuid=M2, name=f"{name} 1g.18gb", gi=3, ci=0, memory="18000 10 800", gpm_2=30),
    ]  # fmt: skip
