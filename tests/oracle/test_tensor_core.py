"""The SIMT executor's tensor cores give the bits of mmaemu, which models an H100 from measurements that others made. Its
FP8 is validated on hardware; bf16 is its block sum with the parameters of Hawkeye (github.com/badasherez/gpu-simulator)."""
import pathlib
import subprocess

import numpy as np
import pytest
import torch
from mmaemu.model import chain
from mmaemu.model.presets import Preset

from program import BINARY

MODEL = pathlib.Path(BINARY).parent / "tests" / "simt" / "tensor_core_model"
BF16 = Preset("h100 bf16", nfma=16, frac=25, frac_out=23, min_exp=-133, late_c=False, slow_chunk=None)
E4M3 = chain.get_preset("hopper")
TYPES = {"bf16": torch.bfloat16, "e4m3": torch.float8_e4m3fn}
N, STEPS = 24, 6

pytestmark = pytest.mark.skipif(not MODEL.exists(), reason="the SIMT tests are not built")


def ours(kind, a, b, d):
    head = np.array([list(TYPES).index(kind), len(b), STEPS], np.int32)
    data = head.tobytes() + a.view(torch.uint8).numpy().tobytes() + b.view(torch.uint8).numpy().tobytes() + d.numpy().tobytes()
    out = subprocess.run([MODEL], input=data, capture_output=True, check=True).stdout
    return np.frombuffer(out, np.float32).reshape(64, len(b))


def theirs(kind, a, b, d):
    preset = BF16 if kind == "bf16" else E4M3
    sums = d.double()
    for at in range(0, a.shape[1], preset.nfma):
        x, y = (t[:, at:at + preset.nfma].double() for t in (a, b))
        x, y = torch.broadcast_tensors(x[:, None, :], y[None, :, :])
        sums = chain.bfma(x, y, sums, preset, kind)
    return chain._canon_nan32(sums.float()).numpy()


def values(how, rows, depth, kind, generator):
    x = torch.randn(rows, depth, generator=generator)
    wide = 30 if kind == "bf16" else 8
    if how == "cancelling":  # every second product undoes the one before, but for its last bits
        x[:, 1::2] = -x[:, 0::2]
    if how == "huge range":
        x *= torch.exp2(torch.randint(-wide, wide, x.shape, generator=generator))
    if how == "denormal":
        x *= 2.0**-62 if kind == "bf16" else 2.0**-9
    if how == "sparse":
        x[torch.rand(x.shape, generator=generator) < 0.9] = 0
    limit = 448 if kind == "e4m3" else 3e38
    return x.clamp(-limit, limit).to(TYPES[kind])


@pytest.fixture(autouse=True)
def bf16_has_a_smallest_exponent(monkeypatch):
    monkeypatch.setitem(chain.EMIN, "bf16", -126)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("how", ["normal", "cancelling", "huge range", "denormal", "sparse"])
@pytest.mark.parametrize("start", ["zero", "small", "large", "tiny"])
def test_same_bits(kind, how, start):
    generator = torch.Generator().manual_seed(7)
    depth = STEPS * (16 if kind == "bf16" else 32)
    a, b = (values(how, rows, depth, kind, generator) for rows in (64, N))
    if how == "cancelling":
        b[:, 1::2] = b[:, 0::2]
    d = torch.randn(64, N, generator=generator) * {"zero": 0.0, "small": 1.0, "large": 2.0**40, "tiny": 2.0**-130}[start]
    assert (ours(kind, a, b, d).view(np.uint32) == theirs(kind, a, b, d).view(np.uint32)).all()


def test_products_of_zero_keep_only_fourteen_bits_of_d():
    zero = torch.zeros(64, STEPS * 32).to(torch.float8_e4m3fn)
    none = zero[:N].clone()
    d = torch.randn(64, N, generator=torch.Generator().manual_seed(8))
    d[:, ::2] *= 2.0**-128
    got = ours("e4m3", zero, none, d)
    assert (got.view(np.uint32) == theirs("e4m3", zero, none, d).view(np.uint32)).all()
    assert (got.view(np.uint32) & 0x3FF == 0).all() and (got != 0).sum() > N * 32


def test_nan_and_overflow():
    a = torch.full((64, STEPS * 16), 1e38).to(torch.bfloat16)
    d = torch.zeros(64, N)
    assert np.isposinf(ours("bf16", a, a[:N].clone(), d)).all()
    b = torch.ones(N, STEPS * 32).to(torch.float8_e4m3fn)
    b[3, 5] = float("nan")
    got = ours("e4m3", torch.ones(64, STEPS * 32).to(torch.float8_e4m3fn), b, d)
    assert (got[:, 3].view(np.uint32) == 0x7FFFFFFF).all()
    assert (np.delete(got, 3, 1) == STEPS * 32).all()
