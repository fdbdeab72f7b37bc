"""Generation with single tokens compiled: what it gives is what the model gives."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from transformers import CompileConfig

from hrm.files.reading import UserError
from tests import forks
from tests.text.model import small

pytestmark = pytest.mark.slow

COMPILER = any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++", "cl"))

SAME = """
import copy, torch
from transformers import CompileConfig
from hrm.text.learning.growth import grow_depth
from hrm.text.model import HRMCache
from hrm.text.model.compiled import Decoder
from tests.text.model import small
torch.set_num_threads(1)
greedy = {"max_new_tokens": 6, "do_sample": False}
fast = {"compile_config": CompileConfig(), "output_depth": True, "output_logits": True}
calls, call = [], Decoder.__call__
Decoder.__call__ = lambda self, *args: calls.append(1) or call(self, *args)

def check(model, ids, **request):
    plain = model.generate(ids, **greedy, **request, output_depth=True, output_logits=True)
    calls.clear()
    out = model.generate(ids, **greedy, **request, **fast)
    assert calls, "nothing was compiled"
    assert torch.equal(out.sequences, plain.sequences) and torch.equal(out.depth, plain.depth), request
    torch.testing.assert_close(torch.stack(out.logits), torch.stack(plain.logits))
    return out

model, ids = small.model(fast_layers=1), small.tokens(rows=3)
padded, mask = torch.nn.functional.pad(ids, (2, 0)), torch.nn.functional.pad(torch.ones_like(ids), (2, 0))
depths = check(model, padded, attention_mask=mask, halting="q", exit_threshold=0.5).depth
assert len(depths.unique()) > 1, depths
check(model, padded, attention_mask=mask, halting="q", halting_rule="last_exited", state="carry")
# A cache that holds a text already, too small for what comes.
caches = [HRMCache(room=4), HRMCache(room=4)]
for cache, more in zip(caches, ({}, fast)):
    first = model.generate(ids, **greedy, **more, past_key_values=cache, return_dict_in_generate=True).sequences
    again = model.generate(first, **greedy, **more, past_key_values=cache, return_dict_in_generate=True).sequences
assert torch.equal(again, model.generate(first, **greedy))
# Other weights, changed without telling, in a copy. One row reads them in another order.
model = copy.deepcopy(model)
for weight in model.parameters():
    weight.data.mul_(1.5)
check(model, padded[:1], attention_mask=mask[:1], halting="q", exit_threshold=0.5)
# New layers are noticed as well.
decoder = Decoder(model.model.recurrence, model.lm_head)
assert decoder.current
grow_depth(model, fast=1, slow=1)
assert not decoder.current
# In low precision attention is sums as well: heads that share keys, and padding.
model = small.model(dtype=torch.float32, **small.FORMS["all shared"], num_key_value_heads=2, fast_layers=1)
model.compute_dtype = torch.bfloat16
plain = model.generate(padded[:1], **greedy, attention_mask=mask[:1], output_depth=True, output_logits=True)
out = model.generate(padded[:1], **greedy, attention_mask=mask[:1], **fast)
shared = int((out.sequences == plain.sequences).all(0).long().cumprod(0).sum()) - padded.shape[1]
assert shared > 1, "the first compiled token differs"
for i in range(shared):
    torch.testing.assert_close(out.logits[i], plain.logits[i], atol=0.05, rtol=0.05)
print("the same")
"""


def test_compiled_steps_give_the_same_tokens_depths_and_logits(tmp_path: Path) -> None:
    """In a process of its own: the compiler does not look through the checks of shapes that run in these tests."""
    if not COMPILER:
        pytest.skip("torch.compile needs a C++ compiler on this machine")
    assert forks.run(SAME, tmp_path) == "the same\n"


def test_a_machine_without_a_compiler_gets_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder, exc

    def missing() -> str:
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", missing)
    with pytest.raises(UserError, match="C\\+\\+ compiler"):
        small.model().generate(small.tokens(), max_new_tokens=2, compile_config=CompileConfig())


def test_disable_compile_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("hrm.text.model.generation.Decoder", lambda _: asked.append(1))
    model = small.model()
    expected = model.generate(small.tokens(), max_new_tokens=3, do_sample=False)
    off = CompileConfig()
    out = model.generate(small.tokens(), max_new_tokens=3, do_sample=False, compile_config=off, disable_compile=True)
    assert torch.equal(out, expected) and not asked
