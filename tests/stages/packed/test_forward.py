"""Log-probabilities of packed rows against a plain forward pass, values and gradients."""

import logging
from typing import Any

import peft
import pytest
import torch
import transformers

from stages.packed.forward import AnswerForward, costs_of
from stages.packed.packing import Answer, pack
from tests.models import SIZES, tiny_model

ANSWERS = [
    Answer(group=group, prompt=prompt, token_ids=token_ids)
    for group, prompt, members in (
        (0, (1, 2, 3, 4), ((5, 6, 7), (8,), (9, 10, 11, 12, 13))),
        (1, (21, 22), ((23, 24), (25, 26, 27, 28))),
    )
    for token_ids in members
]
ROWS = [[0, 1, 2], [3, 4]]


def plain(model: Any, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probabilities and entropies, one answer after the other, as the textbook has them."""
    values, entropies = [], []
    for answer in ANSWERS:
        tokens = torch.tensor([[*answer.prompt, *answer.token_ids]])
        logprobs = torch.log_softmax(model(tokens).logits[0].float() / temperature, dim=-1)
        at = torch.arange(len(answer.prompt) - 1, tokens.shape[1] - 1)
        values.append(logprobs[at, tokens[0, at + 1]])
        entropies.append(-(logprobs[at].exp() * logprobs[at]).sum(-1))
    return torch.cat(values), torch.cat(entropies)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("kind", ["qwen3", "llama", "gpt_neox"])
@pytest.mark.parametrize("rows", [ROWS, [[at] for at in range(5)]])
def test_values_and_gradients_are_those_of_answers_alone(kind: str, rows: list[list[int]]) -> None:
    model = tiny_model(kind, vocab_size=50)
    forward = AnswerForward(model, temperature=0.7, with_entropy=True)
    assert forward.shares and forward.trims
    noise = torch.randn(15, generator=torch.Generator().manual_seed(1))
    expected, entropies = plain(model, 0.7)
    ((expected + 0.1 * entropies) * noise).sum().backward()
    theirs = gradients(model)
    found = forward(model, pack(ANSWERS, rows))
    assert found.entropies_N is not None
    torch.testing.assert_close(found.logprobs_N, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.entropies_N, entropies, atol=1e-5, rtol=1e-5)
    ((found.logprobs_N + 0.1 * found.entropies_N) * noise).sum().backward()
    ours = gradients(model)
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_attention_by_blocks_gives_the_same(kind: str) -> None:
    model = tiny_model(kind, vocab_size=50)  # on a CPU FlexAttention has no backward pass
    forward = AnswerForward(model, attention="flex_attention")
    assert forward.shares and forward.by_blocks
    long = [Answer(group=0, prompt=tuple(range(1, 50)) * 3, token_ids=(1 + at,) * (30 * at)) for at in range(1, 6)]
    for answers, rows in ((ANSWERS, ROWS), (long, [[4, 0], [3, 2, 1]])):
        with torch.no_grad():
            found = forward(model, pack(answers, rows)).logprobs_N
            alone = forward(model, pack(answers, [[at] for row in rows for at in row])).logprobs_N
        torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)
    assert model.config._attn_implementation == "flex_attention", "recomputed layers must find what computed them"


def test_a_model_without_attention_by_blocks_takes_a_mask(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model("qwen3", vocab_size=50)
    type(model)._supports_flex_attn, before = False, type(model)._supports_flex_attn
    try:
        forward = AnswerForward(model, attention="flex_attention")
        found = forward(model, pack(ANSWERS, ROWS)).logprobs_N
    finally:
        type(model)._supports_flex_attn = before
    assert forward.shares and not forward.by_blocks
    torch.testing.assert_close(found, plain(model)[0], atol=1e-5, rtol=1e-5)


def test_the_head_is_itself_again_afterwards() -> None:
    model = tiny_model("qwen3", vocab_size=50)
    before = model(torch.tensor([[1, 2, 3]])).logits
    AnswerForward(model)(model, pack(ANSWERS, ROWS))
    assert torch.equal(model(torch.tensor([[1, 2, 3]])).logits, before)
    assert "forward" not in vars(model.lm_head)


def test_an_adapter_on_every_layer_counts() -> None:
    adapter = peft.LoraConfig(target_modules="all-linear", init_lora_weights=False, r=4)
    model = peft.get_peft_model(tiny_model("qwen3", vocab_size=50), adapter)
    found = AnswerForward(model)(model, pack(ANSWERS, ROWS)).logprobs_N
    torch.testing.assert_close(found, plain(model)[0], atol=1e-5, rtol=1e-5)


def windowed(window: int) -> Any:
    torch.manual_seed(0)
    config = transformers.MistralConfig(
        **SIZES, vocab_size=50, num_key_value_heads=1, head_dim=32, sliding_window=window
    )
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")


def test_a_model_whose_layers_see_a_window_shares_no_prompts_and_is_right(caplog: pytest.LogCaptureFixture) -> None:
    model = windowed(4)
    with caplog.at_level(logging.WARNING):
        forward = AnswerForward(model)
    assert forward.trims and not forward.shares
    assert "prompts are shared: False" in caplog.text
    found = forward(model, pack(ANSWERS, [[at] for at in range(5)])).logprobs_N
    torch.testing.assert_close(found, plain(model)[0], atol=1e-5, rtol=1e-5)


def test_a_model_that_bends_its_logits_keeps_its_head_and_is_right() -> None:
    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        **SIZES, vocab_size=50, num_key_value_heads=1, head_dim=32, final_logit_softcapping=0.5, sliding_window=64
    )
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    forward = AnswerForward(model)
    assert not forward.trims and not forward.shares
    found = forward(model, pack(ANSWERS, [[at] for at in range(5)])).logprobs_N
    torch.testing.assert_close(found, plain(model)[0], atol=1e-5, rtol=1e-5)


def test_costs_by_hand() -> None:
    model = tiny_model("qwen3", vocab_size=50)
    total = sum(p.numel() for p in model.parameters())
    costs = costs_of(model.config, total)
    assert costs.a_token == 2 * (total - 50 * 64)
    assert costs.a_pair == 4 * 2 * 32 * 2  # two heads of 32, two layers
