"""A model comes onto a GPU through pinned buffers as it lies in the files: the checkpoint, or its packed copy."""

import torch

import maple
from maple import packed_copy
from tests.maple.test_model import saved

if torch.cuda.is_available():  # in the interpreter there is nothing to send to

    def test_the_same_weights_arrive_on_a_gpu_both_ways(tmp_path, monkeypatch):
        monkeypatch.setattr(packed_copy, "WORTH", 0)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        sizes = {"hidden_size": 1024, "intermediate_size": 4096, "vocab_size": 4000}  # several pieces a tensor
        saved(tmp_path / "model", dtype=torch.bfloat16, **sizes)
        for bits in (4, 8):
            settings = {"bits": bits, "rank": 0, "device": "cuda"}
            first, second = (maple.load_model(str(tmp_path / "model"), **settings) for _ in range(2))
            plain = maple.load_model(str(tmp_path / "model"), bits=bits, rank=0, dtype=torch.bfloat16)
            for name, parameter in first.named_parameters():
                assert torch.equal(parameter, dict(second.named_parameters())[name]), name
                if "layers" not in name or "codes" in name:  # absmax offsets are means, summed in another order
                    assert torch.equal(parameter.cpu(), dict(plain.named_parameters())[name]), name
