"""The transformer of the llama architecture in torch, with interleaved rotary positions and tied embeddings."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """Sizes of the model: rows are multiples of 32, as Q8_0 wants, and heads 64 wide, as fast attention wants."""

    n_vocab: int = 1536
    n_layer: int = 5
    n_embd: int = 192
    n_head: int = 3
    n_head_kv: int = 1
    n_ff: int = 512
    n_ctx: int = 2048
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.n_embd // self.n_head


class Block(nn.Module):
    """One layer: attention, then the feed-forward part."""

    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        self.shape, self.dropout = shape, dropout
        d, d_kv = shape.n_embd, shape.n_head_kv * shape.head_dim
        self.attn_norm, self.ffn_norm = nn.RMSNorm(d, shape.norm_eps), nn.RMSNorm(d, shape.norm_eps)
        self.attn_q, self.attn_k, self.attn_v = (nn.Linear(d, n, bias=False) for n in (d, d_kv, d_kv))
        self.attn_output = nn.Linear(d, d, bias=False)
        self.ffn_gate, self.ffn_up = nn.Linear(d, shape.n_ff, bias=False), nn.Linear(d, shape.n_ff, bias=False)
        self.ffn_down = nn.Linear(shape.n_ff, d, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x: (batch, time, n_embd)."""
        s, (b, t, d) = self.shape, x.shape
        h = self.attn_norm(x)
        q = _rotate(self.attn_q(h).view(b, t, s.n_head, s.head_dim), cos, sin).transpose(1, 2)
        k = _rotate(self.attn_k(h).view(b, t, s.n_head_kv, s.head_dim), cos, sin).transpose(1, 2)
        v = self.attn_v(h).view(b, t, s.n_head_kv, s.head_dim).transpose(1, 2)
        n_share = s.n_head // s.n_head_kv
        k, v = k.repeat_interleave(n_share, 1), v.repeat_interleave(n_share, 1)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, d)
        x = x + functional.dropout(self.attn_output(y), self.dropout, self.training)
        h = self.ffn_norm(x)
        y = self.ffn_down(functional.silu(self.ffn_gate(h)) * self.ffn_up(h))
        return x + functional.dropout(y, self.dropout, self.training)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbouring pairs (llama.cpp's NORM rope, so the export needs no permutation)."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


class Llama(nn.Module):
    """The whole model. The logits use the token embedding (tied)."""

    def __init__(self, shape: Shape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape, self.dropout = shape, dropout
        self.token_embd = nn.Embedding(shape.n_vocab, shape.n_embd)
        self.blocks = nn.ModuleList(Block(shape, dropout) for _ in range(shape.n_layer))
        self.output_norm = nn.RMSNorm(shape.n_embd, shape.norm_eps)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                scale = (2 * shape.n_layer) ** -0.5 if "output" in name or "down" in name else 1.0
                nn.init.normal_(parameter, std=0.02 * 1.5 * scale)
        frequency = shape.rope_base ** (-torch.arange(0, shape.head_dim, 2) / shape.head_dim)
        angle = torch.outer(torch.arange(shape.n_ctx), frequency)[:, None, :]
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, ids: Tensor, first: int = 0) -> Tensor:
        """Hidden states after the last norm; positions start at ``first``."""
        t = ids.shape[1]
        cos, sin = self.get_buffer("cos")[first : first + t], self.get_buffer("sin")[first : first + t]
        x = functional.dropout(self.token_embd(ids), self.dropout, self.training)
        for block in self.blocks:
            x = block(x, cos, sin)
        out: Tensor = self.output_norm(x)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token for the given hidden states."""
        return functional.linear(hidden, self.token_embd.weight)
