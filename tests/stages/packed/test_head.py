import pytest
import torch

from stages.packed import head
from stages.packed.head import read_head


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_values_and_gradients_are_autograd_s(
    entropy: bool, has_bias: bool, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "CHUNK", 4)  # three parts, the last one short
    torch.manual_seed(0)
    states, weight = torch.randn(10, 6, dtype=torch.float64), torch.randn(9, 6, dtype=torch.float64)
    bias = torch.randn(9, dtype=torch.float64) if has_bias else None
    targets, upstream = torch.randint(9, (10,)), torch.randn(10, 2 if entropy else 1)
    inputs = [one.float().requires_grad_() for one in (states, weight, *([bias] if has_bias else []))]
    logprobs = torch.log_softmax(torch.nn.functional.linear(*inputs) / temperature, dim=1)
    expected = logprobs.gather(1, targets.unsqueeze(1))
    if entropy:
        expected = torch.cat([expected, -(logprobs.exp() * logprobs).sum(1, keepdim=True)], dim=1)
    theirs = torch.autograd.grad((expected * upstream).sum(), inputs)
    found = read_head(inputs[0], inputs[1], inputs[2] if has_bias else None, targets, temperature, entropy)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for ours, gradient in zip(torch.autograd.grad((found * upstream).sum(), inputs), theirs, strict=True):
        torch.testing.assert_close(ours, gradient, atol=1e-5, rtol=1e-5)


def test_a_frozen_head_still_passes_gradients_on() -> None:
    states, weight = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4)
    read_head(states, weight, None, torch.tensor([0, 1, 2]), 1.0, False).sum().backward()
    assert states.grad is not None and states.grad.abs().sum() > 0


def test_under_autocast_the_head_is_computed_in_its_precision_and_weights_keep_theirs() -> None:
    torch.manual_seed(0)
    states, weight = torch.randn(3, 64), torch.randn(50, 64, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = read_head(states, weight, None, torch.tensor([0, 1, 2]), 1.0, False)
    exact = torch.log_softmax(states @ weight.detach().T, dim=1)[torch.arange(3), torch.tensor([0, 1, 2])]
    torch.testing.assert_close(found[:, 0], exact, atol=0.3, rtol=0.05)
    assert found.dtype == torch.float32 and not torch.equal(found[:, 0], exact)
    found.sum().backward()
    assert weight.grad is not None and weight.grad.dtype == torch.float32
