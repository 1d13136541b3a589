# ruff: noqa: S311 - a seeded generator is the point: the run must repeat
"""Trains `modelcloud-nano` on one CPU thread and writes the GGUF: ``python -m scripts.nano.train --out FILE``.

Needs ``torch`` and ``gguf`` (not dependencies of mcd). A run is defined by its seed and steps, not by the clock, so
that it can be repeated. There are two: the second starts from the file of the first and draws the borders of the
subject (mcd/engine/models/README.md has both commands).

Most sequences are one question and the first tokens of its answer: the beginning of an answer decides which answer it
is, and the rest is soon known by heart, so time goes into questions. The others are whole answers and conversations of
several turns.
"""

import argparse
import math
import random
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from scripts.nano import bpe, export
from scripts.nano.corpus import FIRST, SECOND, Conversation, Corpus, held_out
from scripts.nano.model import Llama, Shape

N_OPENING = 7
"""Answer tokens kept in a shortened sequence, and those that weigh in full."""
WEIGHT_REST = 0.15
"""Weight of the later answer tokens in the loss."""
SHARE_SHORT, SHARE_WHOLE = 0.80, 0.13
MAX_TOKENS = 512


def encode(conversation: Conversation, tokenizer: bpe.Tokenizer, *, is_short: bool) -> tuple[list[int], list[float]]:
    """Token ids and their weights in the loss: 0 for what is given, 1 for the start of an answer, less for the rest."""
    ids: list[int] = []
    weights: list[float] = []

    def add(text: str, is_answer: bool = False) -> None:
        tokens = tokenizer.encode(text)
        if is_answer and is_short:
            tokens = tokens[:N_OPENING]
        ids.extend(tokens)
        weights.extend((1.0 if i < N_OPENING else WEIGHT_REST) * is_answer for i in range(len(tokens)))

    if conversation.system:
        add(f"<|im_start|>system\n{conversation.system}<|im_end|>\n")
    for i, turn in enumerate(conversation.turns):
        add(("\n" if i else "") + f"<|im_start|>user\n{turn.question}<|im_end|>\n<|im_start|>assistant\n")
        add(f"{turn.answer}<|im_end|>", is_answer=True)
    return ids[:MAX_TOKENS], weights[:MAX_TOKENS]


class Batches:
    """Batches of about n_tokens, each of sequences of like length."""

    def __init__(self, corpus: Corpus, tokenizer: bpe.Tokenizer, n_tokens: int, seed: int) -> None:
        self._corpus, self._tokenizer, self._n_tokens = corpus, tokenizer, n_tokens
        self._rng = random.Random(seed)
        self._ready: list[tuple[Tensor, Tensor]] = []

    def next(self) -> tuple[Tensor, Tensor]:
        """Token ids and weights."""
        if not self._ready:
            self._fill()
        return self._ready.pop()

    def _sequence(self) -> tuple[list[int], list[float]]:
        kind = self._rng.random()
        n_turns = 1 if kind < SHARE_SHORT + SHARE_WHOLE else self._rng.choice([2, 2, 2, 3, 3, 4, 6, 9])
        return encode(self._corpus.conversation(n_turns), self._tokenizer, is_short=kind < SHARE_SHORT)

    def _fill(self) -> None:
        pool = sorted((self._sequence() for _ in range(1500)), key=lambda pair: len(pair[0]))
        batch: list[tuple[list[int], list[float]]] = []
        for pair in pool:
            if batch and (len(batch) + 1) * len(pair[0]) > self._n_tokens:
                self._ready.append(_pad(batch))
                batch = []
            batch.append(pair)
        self._ready.append(_pad(batch))
        self._rng.shuffle(self._ready)


def _pad(batch: list[tuple[list[int], list[float]]]) -> tuple[Tensor, Tensor]:
    longest = max(len(ids) for ids, _ in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    weights = torch.zeros(len(batch), longest)
    for row, (own_ids, own_weights) in enumerate(batch):
        ids[row, : len(own_ids)] = torch.tensor(own_ids)
        weights[row, : len(own_ids)] = torch.tensor(own_weights)
    return ids, weights


def loss_of(model: Llama, ids: Tensor, weights: Tensor, first: int) -> Tensor:
    """Weighted mean cross entropy over answer tokens; positions start at ``first``."""
    picked = weights[:, 1:] > 0
    hidden = model(ids[:, :-1], first)[picked]
    each = functional.cross_entropy(model.logits(hidden), ids[:, 1:][picked], reduction="none")
    weight = weights[:, 1:][picked]
    return (each * weight).sum() / weight.sum()


def learn_tokenizer(seed: int, n_vocab: int) -> bpe.Tokenizer:
    """Learn the vocabulary from a sample of the corpus, answers included."""
    corpus = Corpus(seed + 1, held_out())
    turns = [corpus.turn() for _ in range(12_000)]
    return bpe.train(
        [t.question for t in turns] + [t.answer for t in turns[::8]] + ["system\nuser\nassistant\n"] * 200, n_vocab
    )


def make_optimizers(model: Llama, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for the embedding and the norms."""
    inner = [p for name, p in model.named_parameters() if p.dim() > 1 and name.startswith("blocks.")]
    norms = [p for p in model.parameters() if p.dim() == 1]
    outer = [{"params": [model.token_embd.weight], "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    return [
        torch.optim.Muon(inner, lr=lr, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outer, lr=lr, betas=(0.9, 0.97)),
    ]


def learn(
    args: argparse.Namespace, tokenizer: bpe.Tokenizer, model: Llama, save: Callable[[dict[str, Tensor]], None]
) -> None:
    """Run the steps; hand the running average of the weights to ``save``."""
    average = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizers = make_optimizers(model, args.lr)
    batches = Batches(
        Corpus(args.seed, held_out(), SECOND if args.start else FIRST), tokenizer, args.batch_tokens, args.seed
    )
    offsets = random.Random(args.seed)
    start, mean_loss, n_tokens = time.monotonic(), 0.0, 0
    for step in range(1, args.steps + 1):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = args.lr * min(1.0, step / 80) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / args.steps)))
        ids, weights = batches.next()
        loss = loss_of(model, ids, weights, offsets.choice([0, 0, 0, offsets.randrange(512)]))
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        for name, p in model.named_parameters():
            average[name].lerp_(p.detach(), 1 - min(0.985, step / (step + 20)))
        n_tokens += ids.numel()
        mean_loss += (loss.item() - mean_loss) / min(step, 50)
        if step % 50 == 0:
            spent = time.monotonic() - start
            print(
                f"step {step}/{args.steps} loss {mean_loss:.4f} {n_tokens / spent:.0f} tok/s elapsed {spent:.0f} s "
                f"eta {spent / step * (args.steps - step):.0f} s",
                flush=True,
            )
        if step == args.steps or (args.save_every and step % args.save_every == 0):
            save(average)


def main() -> None:
    """Train and write the file."""
    parser = argparse.ArgumentParser(description="Train modelcloud-nano and write its GGUF.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="the file of the first round; this is the second")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--batch-tokens", type=int, default=1280)
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--save-every", type=int, default=0, help="also write the file every so many steps")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    shape = Shape()
    model = Llama(shape, args.dropout)
    if args.start:
        tokenizer, weights = export.read(args.start)
        model.load_state_dict(weights)
    else:
        tokenizer = learn_tokenizer(args.seed, shape.n_vocab)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    learn(args, tokenizer, model, lambda weights: export.write(args.out, shape, tokenizer, weights))
    print(f"wrote {args.out} ({args.out.stat().st_size:,} bytes)")


if __name__ == "__main__":
    main()
