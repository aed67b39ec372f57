"""The Triton kernels: on a GPU where there is one, else in the interpreter, which `make test` asks for."""

import torch

from kernels.backend import interpreting

ON_GPU = torch.cuda.is_available() and not interpreting()
DEVICE = "cuda" if ON_GPU else "cpu"
# the interpreter computes bfloat16 wrongly, so that is only for a GPU
DTYPES = (torch.float32, torch.float16, *((torch.bfloat16,) if ON_GPU else ()))
