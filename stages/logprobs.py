"""Log-probabilities of given tokens under a causal model. The one place where logits become log-probabilities.

Shapes: B sequences, T tokens (padded on the right), V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


def token_logprobs(
    model: torch.nn.Module, tokens_BT: Tensor, attention_BT: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """Return [B, T - 1]: log p(token t | tokens before t), for t = 1..T-1, in nats, in float32.

    ``temperature`` divides the logits, as it does where the tokens were sampled.
    """
    logits_BTV = model(input_ids=tokens_BT, attention_mask=attention_BT, use_cache=False).logits[:, :-1]
    # Row by row, and computed again in the backward pass: one row's float32 log-softmax is in memory at a time.
    rows = zip(logits_BTV, tokens_BT[:, 1:], strict=True)
    return torch.stack([checkpoint(_gather, *row, temperature, use_reentrant=False) for row in rows])


def _gather(logits_TV: Tensor, targets_T: Tensor, temperature: float) -> Tensor:
    logprobs_TV = functional.log_softmax(logits_TV.float() / temperature, dim=-1)
    return logprobs_TV.gather(-1, targets_T.unsqueeze(-1)).squeeze(-1)


@torch.no_grad()
def sequence_logprobs(
    model: torch.nn.Module, sequences: Sequence[Sequence[int]], *, temperature: float = 1.0
) -> list[list[float]]:
    """Return for each sequence of T tokens the T - 1 log-probabilities of tokens 1..T-1, in nats, dropout off."""
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    tokens_BT, attention_BT = pad_right(sequences, device=device)
    logprobs_BT = token_logprobs(model, tokens_BT, attention_BT, temperature=temperature).cpu()
    model.train(training)
    return [row[: len(tokens) - 1].tolist() for row, tokens in zip(logprobs_BT, sequences, strict=True)]


def pad_right(sequences: Sequence[Sequence[int]], *, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Return tokens [B, T] padded with 0 on the right, and their attention mask [B, T] (0 on padding)."""
    rows = [torch.tensor(tokens, dtype=torch.long) for tokens in sequences]
    tokens_BT = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask_BT = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return tokens_BT.to(device), mask_BT.to(device)
