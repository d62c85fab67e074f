"""Pre-training of the base model ``words`` on English word problems, resumable at any step.

Four kinds of examples, of which only what stands behind a question or a ``=`` is learned:

- facts: lines of arithmetic, as worked solutions write them;
- worked: problems of the templates ``worked`` with their solutions;
- bare: problems of the templates ``bare`` with nothing but ``#### answer``;
- tasks: those of :data:`upge.tasks.word_problems.TASKS`, likewise.

All of them are of the split ``pretraining``. The learning rates rise over ``warmup`` steps, stay
constant, and fall linearly to 0 over the last ``decay`` of all steps. So training can be extended:
with a larger ``steps`` the command resumes before the fall, and ends in the same weights as a run
that was that long from the start.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from upge.common.errors import UpgeError
from upge.common.files import atomic_write
from upge.common.optional import require
from upge.models.pretraining import optimizers
from upge.models.tiny import EOS, PAD, build_model
from upge.tasks.word_problems import MARKER, TASKS, draw

#: Raised whenever a change of the code changes the weights that a recipe leads to.
NUMBERS = 1

#: Examples that are drawn, and sorted by length, at a time; pools that the tokenizer learns from.
_POOL, _TOKENIZER_POOLS = 1024, 20

#: Steps between the latest checkpoints, and between those that are kept to extend from.
_LATEST, _KEPT = 100, 1000


@dataclass(frozen=True)
class WordsRecipe:
    """What determines the base model.

    Args:
        hidden, feed_forward, layers, heads: its size; see :func:`upge.models.tiny.build_model`.
        vocabulary: tokens of its byte-pair encoding, in which each digit is a token.
        positions: the longest sequence, in tokens.
        steps: optimizer steps.
        decay: share of the steps, the last ones, over which the rates fall to 0.
        batch_tokens: tokens a step, padding included, about.
        muon_lr: learning rate of the matrices inside the blocks, by Muon.
        adam_lr: learning rate of embeddings, norms and biases, by AdamW.
        warmup: steps over which the rates rise.
        facts: share of examples that are arithmetic facts, ``lines`` of them each.
        worked: share of worked problems.
        bare: share of problems with bare answers; the rest are tasks.
        lines: facts an example.
        compiled: whether forward and backward passes are compiled, by a C++ compiler that has to be
            there: they take two thirds of the time, and round otherwise.
        seed: of weights and data.

    Raises:
        UpgeError: a size or rate that is not above 0, or shares that exceed 1.
    """

    hidden: int = 192
    feed_forward: int = 576
    layers: int = 6
    heads: int = 6
    vocabulary: int = 1280
    positions: int = 512
    steps: int = 16000
    decay: float = 0.2
    batch_tokens: int = 2304
    muon_lr: float = 0.02
    adam_lr: float = 0.003
    warmup: int = 100
    facts: float = 0.4
    worked: float = 0.36
    bare: float = 0.12
    lines: int = 10
    compiled: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in ("seed", "compiled") and not 0 < value < math.inf:
                raise UpgeError(f"{field.name}: got {value}, wanted a finite number above 0")
        shares = self.facts + self.worked + self.bare
        if shares > 1 or self.decay > 1:
            raise UpgeError(
                f"facts, worked, bare: got {shares:.3g} in all, decay: got {self.decay}; wanted at "
                "most 1"
            )

    @property
    def key(self) -> str:
        """Hash of all that determines the base."""
        given = asdict(self) | {"numbers": NUMBERS}
        return hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def constant_key(self) -> str:
        """Hash of all that determines the weights before the rates fall."""
        return replace(self, steps=1, decay=1.0).key

    @property
    def falls_from(self) -> int:
        """The last step before the rates fall."""
        return self.steps - round(self.decay * self.steps)

    def rate(self, step: int) -> float:
        """The factor of both learning rates at a step, from 1."""
        left = (self.steps - step + 1) / (self.steps - self.falls_from + 1)
        return min(step / self.warmup, 1.0, left)


# -------------------------------------------------------------------------------------------- facts

_UNITS = (
    "apples", "balls", "boxes", "boys", "cents", "cards", "cups", "days", "dollars", "eggs",
    "girls", "hours", "letters", "miles", "minutes", "muffins", "packs", "pages", "people",
    "pieces", "points", "slices", "stickers", "students", "toys", "weeks", "yards", "years",
)  # fmt: skip
_CURRENCIES = "$£€"

#: The largest number in a fact, as in the templates.
_LARGEST = 3000


def _number(random: Random, most: int = _LARGEST) -> int:
    digits = random.choices((1, 2, 3, 4), (0.2, 0.4, 0.33, 0.07))[0]
    return random.randint(1, min(10**digits - 1, most))


def _factors(random: Random) -> tuple[int, int]:
    b = random.randint(2, 12 if random.random() < 0.7 else 60)
    pair = [_number(random, _LARGEST // b), b]
    random.shuffle(pair)
    return pair[0], pair[1]


def _sum(random: Random) -> tuple[str, int]:
    terms = [_number(random) for _ in range(random.choices((2, 3, 4), (0.65, 0.3, 0.05))[0])]
    return " + ".join(f"«{term}»" for term in terms), sum(terms)


def _difference(random: Random) -> tuple[str, int]:
    rest, *taken = (_number(random) for _ in range(random.choices((2, 3), (0.85, 0.15))[0]))
    terms = (rest + sum(taken), *taken)
    return " - ".join(f"«{term}»" for term in terms), rest


def _product(random: Random) -> tuple[str, int]:
    a, b = _factors(random)
    return f"{a} * «{b}»", a * b


def _quotient(random: Random) -> tuple[str, int]:
    a, b = _factors(random)
    return f"«{a * b}» / {b}", a


def _fraction(random: Random) -> tuple[str, int]:
    if random.random() < 0.5:
        q = random.randint(2, 8)
        n, p = random.randint(1, 60) * q, random.randint(1, q - 1)
        share, result = f"{p}/{q}", n // q * p
    else:
        percent = random.choice((5, 10, 20, 25, 30, 40, 50, 60, 70, 75, 80, 90))
        n = random.randint(1, 40) * (100 // math.gcd(percent, 100))
        share = random.choice((f"{percent / 100:g}", f"{percent}/100"))
        result = n * percent // 100
    return random.choice((f"{share} * «{n}»", f"«{n}» * {share}")), result


#: Rules with their shares. What they write stands in «» where a unit or currency may stand too.
_FACTS: dict[Callable[[Random], tuple[str, int]], float] = {
    _sum: 0.3,
    _difference: 0.22,
    _product: 0.25,
    _quotient: 0.13,
    _fraction: 0.1,
}


def fact(random: Random) -> tuple[str, str]:
    """The two sides of an equation as a solution may write it; the ``=`` ends the left one."""
    (rule,) = random.choices(list(_FACTS), list(_FACTS.values()))
    left, result = rule(random)
    if random.random() < 0.33:
        left = left.replace("*", "x")
    kind, sign, unit = random.random(), "", ""
    if kind < 0.3:
        unit = f" {random.choice(_UNITS)}"
    elif kind < 0.5:
        sign = random.choice(_CURRENCIES)
    left, right = f"{left} = ", f"«{result}»"
    if random.random() < 0.33:
        left = left.replace(" ", "")
    left, blank = left.rstrip(), " " * left.endswith(" ")
    left, right = (side.replace("«", sign).replace("»", unit) for side in (left, right))
    return left, blank + right


# --------------------------------------------------------------------------------------------- data

#: Texts, and whether they are learned or only read.
Example = list[tuple[str, bool]]


def example(recipe: WordsRecipe, random: Random) -> Example:
    """One example of the mix."""
    kind = random.random()
    if kind < recipe.facts:
        lines = (fact(random) for _ in range(recipe.lines))
        return [part for asked, result in lines for part in ((asked, False), (f"{result}\n", True))]
    if kind < recipe.facts + recipe.worked:
        problem = draw("worked", "pretraining", random)
        return [(problem.prompt, False), (str(problem.demonstration), True)]
    bare = kind < recipe.facts + recipe.worked + recipe.bare
    problem = draw("bare" if bare else random.choice(list(TASKS)), "pretraining", random)
    return [(problem.prompt, False), (f"{MARKER} {problem.answer}", True)]


def _pool(recipe: WordsRecipe, number: int) -> list[Example]:
    random = Random(f"{recipe.seed} {number}")
    return [example(recipe, random) for _ in range(_POOL)]


def build_tokenizer(recipe: WordsRecipe) -> Any:
    """A byte-level byte-pair encoding of the mix, after PAD and EOS; no token has two digits."""
    tokenizers = require("tokenizers", "lm")
    transformers = require("transformers", "lm")
    before, byte_level = tokenizers.pre_tokenizers, tokenizers.pre_tokenizers.ByteLevel
    signs = tokenizers.Regex(" ?[-+*/=$£€]")
    core = tokenizers.Tokenizer(tokenizers.models.BPE())
    core.pre_tokenizer = before.Sequence(
        [
            before.Split(signs, "isolated"),
            before.Digits(individual_digits=True),
            byte_level(add_prefix_space=False),
        ]
    )
    core.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[PAD, EOS],
        initial_alphabet=sorted(byte_level.alphabet()),
        show_progress=False,
    )
    pools = (_pool(recipe, number) for number in range(_TOKENIZER_POOLS))
    core.train_from_iterator(
        ("".join(text for text, _ in parts) for pool in pools for parts in pool), trainer
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, eos_token=EOS, padding_side="right"
    )


def _encoded(pool: list[Example], tokenizer: Any) -> Iterator[tuple[list[int], list[int]]]:
    """Ids and labels of each example; an end-of-sequence token is learned too."""
    texts = [text for parts in pool for text, _ in parts]
    encoded = iter(tokenizer(texts, add_special_tokens=False).input_ids)
    for parts in pool:
        ids: list[int] = []
        labels: list[int] = []
        for _, learned in parts:
            part = next(encoded)
            ids += part
            labels += part if learned else [-100] * len(part)
        yield [*ids, tokenizer.eos_token_id], [*labels, tokenizer.eos_token_id]


def batches(recipe: WordsRecipe, tokenizer: Any, number: int) -> list[tuple[Tensor, Tensor]]:
    """The batches of a pool, in the order they are trained on: ids and labels (N, T)."""
    rows = sorted(_encoded(_pool(recipe, number), tokenizer), key=lambda row: len(row[0]))
    groups: list[list[tuple[list[int], list[int]]]] = [[]]
    for row in rows:
        if (len(groups[-1]) + 1) * len(row[0]) > recipe.batch_tokens:
            groups.append([])
        groups[-1].append(row)
    Random(number).shuffle(groups)
    return [_tensors(group, tokenizer.pad_token_id) for group in groups]


def _tensors(group: list[tuple[list[int], list[int]]], pad: int) -> tuple[Tensor, Tensor]:
    width = max(len(ids) for ids, _ in group)
    ids = torch.full((len(group), width), pad)
    labels = torch.full_like(ids, -100)
    for row, (tokens, learned) in enumerate(group):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, : len(tokens)] = torch.tensor(learned)
    return ids, labels


# ----------------------------------------------------------------------------------------- training


class _Place(NamedTuple):
    """Where a training is: steps done, and the pool and batch that come next."""

    step: int = 0
    pool: int = 0
    batch: int = 0


class _Training:
    """Model, optimizers and place, which checkpoints hold."""

    def __init__(self, recipe: WordsRecipe, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder
        self.tokenizer = build_tokenizer(recipe)
        self.model = build_model(
            len(self.tokenizer),
            recipe.hidden,
            recipe.layers,
            recipe.heads,
            recipe.seed,
            feed_forward=recipe.feed_forward,
            positions=recipe.positions,
        ).train()
        # In bfloat16 on CPUs twice as fast as the fused one.
        self.model.set_attn_implementation("eager")
        decoder = self.model.get_decoder()
        self.decoder = torch.compile(decoder, dynamic=True) if recipe.compiled else decoder
        self.optimizers = optimizers(self.model, recipe.muon_lr, recipe.adam_lr)
        self.rates = (recipe.muon_lr, recipe.adam_lr)
        self.place = _Place()

    def resume(self) -> None:
        """Load the last checkpoint that is on this recipe's way."""
        found = {}
        for path in self.folder.glob("*.pt"):
            step, key = int(path.stem.split("-")[0]), path.stem.split("-")[1]
            constant = key == self.recipe.constant_key and step <= self.recipe.falls_from
            if constant or key == self.recipe.key:
                found[step] = path
        if not found:
            return
        state = torch.load(found[max(found)], weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, own in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(own)
        self.place = _Place(*state["place"])

    def save(self) -> None:
        """Keep what resuming needs; of the latest checkpoints only the last stays."""
        step = self.place.step
        constant = step <= self.recipe.falls_from
        key = self.recipe.constant_key if constant else self.recipe.key
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "place": tuple(self.place),
        }
        before = list(self.folder.glob("*.pt"))
        buffer = io.BytesIO()
        torch.save(state, buffer)
        atomic_write(self.folder / f"{step}-{key}.pt", buffer.getvalue())
        for path in before:
            steps = int(path.stem.split("-")[0])
            kept = steps % _KEPT == 0 or steps == self.recipe.falls_from
            if steps < step and not kept:
                path.unlink()

    def step(self, ids: Tensor, labels: Tensor) -> float:
        """One optimizer step; its loss."""
        wanted = labels[:, 1:]
        learned = wanted != -100
        with torch.autocast("cpu", torch.bfloat16):
            # Right padding under a causal mask: no learned token sees it.
            hidden = self.decoder(input_ids=ids, use_cache=False).last_hidden_state
            logits = self.model.get_output_embeddings()(hidden[:, :-1][learned])
        loss = nn.functional.cross_entropy(logits.float(), wanted[learned])
        loss.backward()
        factor = self.recipe.rate(self.place.step + 1)
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = factor * rate
            optimizer.step()
            optimizer.zero_grad()
        return loss.item()


def pretrain(
    recipe: WordsRecipe,
    folder: Path,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> tuple[Any, Any]:
    """The base model of a recipe, and its tokenizer; the same on the same machine and versions.

    Args:
        recipe: what to train.
        folder: where checkpoints are; training resumes from the last one there.
        progress: called after each step with its number, from 1, and loss.

    Raises:
        UpgeError: the loss is not finite, or reasoning-gym is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    training = _Training(recipe, folder)
    training.resume()
    while training.place.step < recipe.steps:
        pool = batches(recipe, training.tokenizer, training.place.pool)
        for ids, labels in pool[training.place.batch :]:
            loss = training.step(ids, labels)
            step, number, batch = training.place
            last = batch + 1 == len(pool)
            training.place = _Place(step + 1, number + last, 0 if last else batch + 1)
            if not math.isfinite(loss):
                raise UpgeError(
                    f"pre-training: the loss of step {step + 1} is not finite; lower muon_lr and "
                    "adam_lr"
                )
            progress(step + 1, loss)
            done = step + 1
            if done % _LATEST == 0 or done in (recipe.falls_from, recipe.steps):
                training.save()
            if done == recipe.steps:
                break
    training.model.set_attn_implementation("sdpa")
    return training.model.eval(), training.tokenizer
