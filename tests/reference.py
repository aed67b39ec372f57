"""What a result is held to: the exact product in float64, and the error that rounding may make of it."""

import torch


def float64_reference(x, w, bias=None):
    """The exact product with the dequantised weight, and the size of the sums that make it."""
    weight = w.dequantize(torch.float64) if not isinstance(w, torch.Tensor) else w.double()
    y = x.double() @ weight.T + (0 if bias is None else bias.double())
    return y, (x.double().abs() @ weight.abs().T).max().item()


def assert_within_rounding(found, exact, size, plain, name=""):
    """At most twice the error of plain PyTorch in the same dtype, or four float32 roundings of the largest sum.

    Or two roundings of the largest result in that dtype: of a single number, plain PyTorch's may happen to be next to
    none. In float32 these are less than the second bound, in 16 bits they still catch a scale that is 1 % off.
    """
    plain_error = (plain.double() - exact).abs().max().item()
    roundings = torch.finfo(plain.dtype).eps * exact.abs().max().item()
    bound = max(2 * plain_error, 4 * 2**-23 * size, roundings)
    error = (found.double() - exact).abs().max().item()
    assert error <= bound, f"{name} is off by {error:.3g}, allowed are {bound:.3g}"
