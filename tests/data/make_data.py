"""Write the small .pth files that tests/test_tensors.c reads:   python3 make_data.py PREFIX

The committed torch1_*.pth came from torch 1.13.0, torch2_*.pth from torch 2.15.0. The values are simple enough for the
test to compute them again: element i of a tensor is (i + 1) / 4, or i - 2 for integers.
"""
import sys
from collections import OrderedDict

import torch
from torch import nn

PREFIX = sys.argv[1]


def ramp(*shape, dtype=torch.float32):
    n = 1
    for s in shape:
        n *= s
    v = torch.arange(n)
    v = (v + 1).double() / 4 if dtype.is_floating_point else v - 2
    return v.to(dtype).reshape(shape)


def all_kinds():
    d = OrderedDict()
    d["f32"] = ramp(2, 3)
    d["f16"] = ramp(3, 2, dtype=torch.float16)
    d["bf16"] = ramp(4, dtype=torch.bfloat16)
    d["f64"] = ramp(2, dtype=torch.float64)
    d["i8"] = ramp(5, dtype=torch.int8)
    d["u8"] = (ramp(4, dtype=torch.int64) + 2).to(torch.uint8)
    d["i16"] = ramp(4, dtype=torch.int16)
    d["i32"] = ramp(4, dtype=torch.int32)
    d["i64"] = ramp(4, dtype=torch.int64)
    d["bool"] = torch.tensor([True, False, True])
    d["scalar"] = torch.tensor(2.5)
    d["empty"] = torch.empty(0)
    d["empty2"] = torch.empty(3, 0, 2)
    base = ramp(4, 6)
    d["base"] = base
    d["alias"] = base                      # the same storage
    d["transposed"] = base.t()             # [6, 4], strides 1, 6
    d["window"] = base[1:3, 1:6:2]         # [2, 3], strides 6, 2, offset 7
    d["parameter"] = nn.Parameter(ramp(2, 2))
    d["k\u00e4mera.\U0001f916"] = ramp(1)
    return d


torch.save(all_kinds(), PREFIX + "_kinds.pth")
torch.save(all_kinds(), PREFIX + "_kinds_p4.pth", pickle_protocol=4)

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
with torch.no_grad():
    for p in net.parameters():
        p.copy_(ramp(*p.shape))
keep = list(torch.serialization._package_registry)
torch.serialization.register_package(0, lambda s: "cuda:0", lambda s, loc: None)
torch.save(net.state_dict(), PREFIX + "_module_cuda.pth")     # with _metadata, storages tagged cuda:0
torch.serialization._package_registry[:] = keep

torch.save({"epoch": 3, "lr": 0.1, "note": None, "sizes": [1, 2, 3], "flags": (True, False),
            "state_dict": net.state_dict()}, PREFIX + "_nested.pth")
torch.save({"mean": ramp(3), "std": ramp(3), "min": -ramp(3), "max": ramp(3)}, PREFIX + "_scaler.pth")
torch.save({"a": ramp(2)}, PREFIX + "_old.pth", _use_new_zipfile_serialization=False)
torch.save(net, PREFIX + "_whole_module.pth")                 # refused: names a class
torch.save({"a": ramp(2).expand(3, 2)}, PREFIX + "_expanded.pth")
torch.save(ramp(2), PREFIX + "_tensor.pth")                   # refused: not a dictionary
