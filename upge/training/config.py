"""The configuration of a run, and the key under which its results are kept."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, Field, PositiveInt, model_validator

from upge.algorithms import algorithm
from upge.common.code import Code, code_of, code_of_parts, digest, versions
from upge.common.config import Config
from upge.common.errors import UpgeError
from upge.common.files import file_digest
from upge.estimator import Estimator, Term
from upge.models.bases import base_folder
from upge.rollouts.backends import ENGINES, Backend
from upge.rollouts.sampler import Sampling
from upge.tasks.benchmarks import local_file
from upge.tasks.synthetic import FAMILIES, IN_DISTRIBUTION, LEVELS
from upge.training.gradient import Fault

#: Sizes of a step or an evaluation, bounded so that a typing error can't exhaust the memory.
Count = Annotated[int, Field(gt=0, le=1_000_000)]

#: Modules that only runs with an engine go through.
_ENGINE_MODULES = ("upge.rollouts.vllm", "upge.rollouts.vllm_worker")

#: Packages that grade answers, by the kind of the data.
_GRADERS: Mapping[str, tuple[str, ...]] = {
    "benchmarks": ("mpmath",),
    "reasoning_gym": ("reasoning-gym",),
}

#: Suffixes of files with a model's weights, and of those with its settings and tokenizer.
_WEIGHTS = (".safetensors", ".bin", ".gguf")
_SETTINGS = (".json", ".jinja", ".model", ".txt")

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Supply(Config):
    """Which training problems there are, and which of them carry a demonstration.

    Args:
        problems: training problems, spread evenly over families and levels.
        demonstrations: how many of them have a demonstration; None for all.
        families, levels: those that demonstrations cover.
        seed: which problems get one.
    """

    problems: Count = 900
    demonstrations: Annotated[int, Field(ge=0)] | None = None
    families: tuple[str, ...] = tuple(IN_DISTRIBUTION)
    levels: tuple[int, ...] = LEVELS
    seed: int = 0

    @model_validator(mode="after")
    def _known(self) -> Self:
        for family in self.families:
            if family not in FAMILIES:
                raise ValueError(
                    f"families: unknown family {family!r}; known: {', '.join(FAMILIES)}"
                )
        if unknown := set(self.levels) - set(LEVELS):
            raise ValueError(f"levels: got {min(unknown)}, wanted some of {LEVELS}")
        return self


class Synthetic(Config):
    """The synthetic suites (:mod:`upge.tasks.synthetic`).

    Args:
        supply: training problems and demonstrations.
        validation: validation problems a family and level.
        test: test problems a family and level, in and out of distribution.
    """

    kind: Literal["synthetic"] = "synthetic"
    supply: Supply = Supply()
    validation: Count = 6
    test: Count = 20


class JsonLines(Config):
    """Problems of one's own: JSON Lines with ``problem``, ``answer`` and maybe ``solution``.

    Args:
        train: the file of training problems.
        validation: a file of validation problems; None holds out ``held_out`` of the others.
        test: a file of test problems, if there is one.
        held_out: validation problems to take from ``train``, where no file is given.
        prompt: how a problem becomes a prompt.
        demonstration: how a solution becomes a response; it has to end in marker and answer.
        marker: what the answer stands behind; the last one counts.
        exact: whether answers that are numbers are compared letter by letter, as all others are.
    """

    kind: Literal["jsonl"]
    train: str
    validation: str | None = None
    test: str | None = None
    held_out: Count = 64
    prompt: str = "{problem}\n"
    demonstration: str = "{solution}\n#### {answer}"
    marker: str = "####"
    exact: bool = False


class Benchmarks(Config):
    r"""Mathematical problems whose answers are boxed: data sets by name, or one's own files.

    Names are those of :data:`upge.tasks.benchmarks.SOURCES`, as ``openr1`` or ``math500``; they
    come from UPGE_DATA where it has them, and else from the hub.

    Args:
        train_set: what is trained on, by name or file.
        validation_set: likewise, what settings are chosen by; None holds out ``held_out`` problems.
        test_sets: likewise, what is measured at the end.
        held_out: validation problems to take from ``train_set``, where no set is named.
        template: how a problem becomes a prompt; see :mod:`upge.tasks.templates`.
        max_prompt: tokens of a training prompt, at most; longer problems are dropped and counted.
        overlap: what happens to training problems that a validation or test set has too.
        wrong_demonstrations: what happens to those that the verifier grades as wrong: kept, or
            dropped and counted.
        answer_seconds: of no effect: read from older configurations, until 0.3.
    """

    kind: Literal["benchmarks"]
    train_set: str
    validation_set: str | None = None
    test_sets: tuple[str, ...] = ()
    held_out: Count = 64
    template: Literal["chat", "qwen", "zero", "plain"] = "chat"
    max_prompt: Count = 1024
    overlap: Literal["drop", "refuse", "keep"] = "drop"
    wrong_demonstrations: Literal["keep", "drop"] = "keep"
    answer_seconds: Rate = 1.0

    @property
    def sets(self) -> tuple[str, ...]:
        """All of them."""
        validation = () if self.validation_set is None else (self.validation_set,)
        return (self.train_set, *validation, *self.test_sets)

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in self.sets:
            local_file(name)  # says which there are
        called = [Path(name).stem for name in self.test_sets]
        if twice := {name for name in called if called.count(name) > 1}:
            raise UpgeError(f"test_sets: two are called {min(twice)!r}; rename one of the files")
        return self


#: Old names of a stage's and of a run's keys, read until 0.3.
RENAMED = {
    "questions": "prompts_per_step",
    "rollouts": "group_size",
    "updates": "minibatches",
    "token_budget": "tokens_per_microbatch",
}


def _renamed(name: str, default: int) -> Any:
    """A field that is also read under its old name."""
    old = next(old for old, new in RENAMED.items() if new == name)
    return Field(default=default, validation_alias=AliasChoices(name, old))


def current_names(given: Any) -> Any:
    """A run's configuration with old keys renamed, in its stages too."""
    if isinstance(given, list):
        return [current_names(item) for item in given]
    if not isinstance(given, dict):
        return given
    named = {RENAMED.get(key, key): value for key, value in given.items()}
    return named | ({"stages": current_names(named["stages"])} if "stages" in named else {})


#: A data set of reasoning-gym by name, or a name of one's own with ``dataset``, and its fields.
GymSets = dict[str, dict[str, Any]]


class ReasoningGym(Config):
    """Problems that reasoning-gym generates and grades; see :mod:`upge.tasks.reasoning_gym`.

    A set is ``NAME: {FIELD: VALUE, …}`` with the fields of the data set's configuration there, as
    ``gsm_symbolic: {size: 900, seed: 7}``; a set of another name says by ``dataset`` what it is.

    Args:
        train: what is trained on; of it go the problems that are validated or tested on.
        validation: what settings are chosen by; None holds out ``held_out`` problems of ``train``.
        test: what is measured at the end, a suite a set.
        unseen: names of the suites that are out of distribution.
        held_out: validation problems to take from ``train``, where no set is named.
        prompt: how a problem becomes a prompt.
        marker: what the answer stands behind; the last one counts.
        answer_seconds: processor time that grading one answer may take.
    """

    kind: Literal["reasoning_gym"]
    train: GymSets = Field(min_length=1)
    validation: GymSets | None = None
    test: GymSets = Field(default={})
    unseen: tuple[str, ...] = ()
    held_out: Count = 64
    prompt: str = "{problem}\n"
    marker: str = "####"
    answer_seconds: Rate = 1.0

    @model_validator(mode="after")
    def _known(self) -> Self:
        if others := set(self.unseen) - self.test.keys():
            raise ValueError(
                f"unseen: got {min(others)!r}, wanted some of the suites of test: "
                f"{', '.join(self.test)}"
            )
        return self


class Stage(Config):
    """One algorithm for some steps; a list of stages is a pipeline, as SFT→GRPO.

    Args:
        algorithm: its name in the registry.
        options: its options, over the registry's defaults.
        steps: rollout batches to train on.
        prompts_per_step: prompts per step.
        group_size: responses sampled per prompt, n.
        minibatches: parts of whole groups that a step's batch is split into, an update each.
        epochs: passes over those parts.
        lr: learning rate of AdamW, constant after ``warmup`` updates.
        betas, weight_decay: of AdamW.
        warmup: updates over which the rate rises linearly.
        max_grad_norm: gradients are clipped to this norm; None for no clip.
        skip_norm: an update whose gradient norm exceeds it is skipped; None for no skip.
        entropy_bonus: c of c·H, H the mean entropy over all tokens of rows with nonzero weight.
        temperature: sampling temperature of the rollouts.
        success: the reward from which a response is a success, as REINFORCE and HPT's P count them;
            None for any reward above 0.
        mask_truncated: whether responses that max_tokens cut off get no loss. They count in their
            group's statistics all the same.
        micro_batch: rows per micro-batch, in order; None for rows of similar length within the
            run's ``tokens_per_microbatch``.
        faults: known bugs of other trainers to inject; see :data:`upge.training.gradient.Fault`.
        on_bad_step: what happens if the loss or its gradient is not finite; the batch is never
            trained on.
    """

    algorithm: str
    options: dict[str, float | str] = Field(default={})
    steps: PositiveInt
    prompts_per_step: Count = _renamed("prompts_per_step", 16)
    group_size: Count = _renamed("group_size", 8)
    minibatches: Count = _renamed("minibatches", 1)
    epochs: Count = 1
    lr: Rate
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    weight_decay: NonNegative = 0.0
    warmup: Annotated[int, Field(ge=0)] = 5
    max_grad_norm: Rate | None = 1.0
    skip_norm: Rate | None = None
    entropy_bonus: NonNegative = 0.0
    temperature: Rate = 1.0
    success: Annotated[float, Field(allow_inf_nan=False)] | None = None
    mask_truncated: bool = False
    on_bad_step: Literal["stop", "skip"] = "stop"
    micro_batch: PositiveInt | None = None
    faults: tuple[Fault, ...] = ()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        estimator = self.estimator
        Sampling(1, self.temperature)  # says which temperatures there are
        if self.minibatches > self.prompts_per_step:
            raise ValueError(
                f"minibatches: got {self.minibatches} of {self.prompts_per_step} prompts, wanted "
                "at most one a prompt"
            )
        online = [term for term in estimator.terms if term.samples == "online"]
        if self.group_size == 1 and online and all(map(_compares_rollouts, online)):
            raise ValueError(
                f"group_size: got 1, but {self.algorithm} compares the rollouts of a prompt with "
                "each other; wanted at least 2"
            )
        if "values" in estimator.needs:
            raise ValueError(
                f"algorithm: {self.algorithm} needs a critic, which the loop doesn't train; take "
                "one with a group advantage, as grpo"
            )
        if further := estimator.needs - {"logp", "entropy", "old_logp"}:
            raise ValueError(
                f"options: {self.algorithm} with these reads {min(further)}, which the loop "
                "doesn't provide; leave them out, or call the estimator in a loop of your own"
            )
        if self.faults and self.micro_batch is None:
            raise ValueError("faults: they concern gradient accumulation; set micro_batch too")
        if "mean_of_means" in self.faults and self.samples_rollouts:
            raise ValueError(
                f"faults: mean_of_means would split the groups of {self.algorithm}; take an "
                "algorithm without rollouts"
            )
        return self

    @property
    def estimator(self) -> Estimator:
        """The algorithm with its options; built once."""
        build = algorithm(self.algorithm).build
        return _estimator(build, self.algorithm, tuple(self.options.items()))

    @property
    def samples_rollouts(self) -> bool:
        """Whether some term's weights depend on rollouts."""
        return self.estimator.reads("online")

    @property
    def reads_demonstrations(self) -> bool:
        """Whether some term's weights depend on demonstrations."""
        return self.estimator.reads("offline")


@lru_cache(maxsize=256)
def _estimator(build: object, name: str, options: tuple[tuple[str, float | str], ...]) -> Estimator:
    """Kept as long as the registry has that builder under that name."""
    return algorithm(name)(**dict(options))


def _compares_rollouts(term: Term) -> bool:
    """Whether the advantage vanishes where a prompt has one rollout."""
    return term.advantage.centers and term.advantage.compares == "online"


class Evaluation(Config):
    """When and how the policy is evaluated.

    Args:
        every: steps between validations; None for no validation.
        validation_samples: responses per validation problem.
        test_samples: responses per test problem, after the last step; None for no test.
        temperature, top_p: sampling parameters; the paper's by default (section 4.1).
    """

    every: PositiveInt | None = 50
    validation_samples: Count = 4
    test_samples: Count | None = 8
    temperature: NonNegative = 0.6
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.sampling(1)
        return self

    def sampling(self, max_tokens: int) -> Sampling:
        """The sampling parameters, for responses of at most ``max_tokens``."""
        return Sampling(max_tokens, self.temperature, self.top_p)


class RunConfig(Config):
    """A run: model, problems, stages, evaluation, seed.

    Args:
        name: the method, as tables call it.
        model: a base model's name, a hub id, or a folder in the Hugging Face format.
        data: the problems.
        stages: what is trained, in order; without any, the model is evaluated untrained.
        evaluation: when and how it is evaluated.
        seed: of the order of prompts and of all sampling.
        max_tokens: the longest response, in tokens.
        long_demonstrations: whether longer demonstrations are an error, or dropped.
        tokens_per_microbatch: the most padded tokens of a micro-batch.
        checkpoint_every: steps between checkpoints; they are also at most two minutes and a step
            apart.
        norms_every: steps between measurements of each term's gradient norm; None for none.
        trackers: experiment trackers that metrics are also sent to.
        backend: what samples the responses; see :mod:`upge.rollouts.backends`.
        precision: of matrix products in training and, with the backend ``transformers``, in
            sampling; weights, gradients and AdamW's moments are always float32, so that no small
            update is rounded away. None for the launcher's choice, else float32.
        trust_remote_code: whether Python code that comes with the model may run.
    """

    name: str
    model: str = "tiny"
    data: Annotated[
        Synthetic | JsonLines | Benchmarks | ReasoningGym, Field(discriminator="kind")
    ] = Synthetic()
    stages: tuple[Stage, ...]
    evaluation: Evaluation = Evaluation()
    seed: Annotated[int, Field(ge=0)] = 0
    max_tokens: PositiveInt = 64
    long_demonstrations: Literal["refuse", "drop"] = "refuse"
    tokens_per_microbatch: PositiveInt = _renamed("tokens_per_microbatch", 8192)
    checkpoint_every: PositiveInt = 50
    norms_every: PositiveInt | None = 25
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    backend: Backend = "transformers"
    precision: Literal["float32", "bfloat16"] | None = None
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        name = self.name
        if not name.strip() or not name.isprintable() or "/" in name or len(name.encode()) > 200:
            raise ValueError(
                f"name: got {name!r:.60}, wanted what can be a folder's name, of at most 200 bytes "
                "and without '/'"
            )
        if self.tokens_per_microbatch < self.max_tokens:
            raise ValueError(
                f"tokens_per_microbatch: got {self.tokens_per_microbatch}, which a response of "
                f"max_tokens {self.max_tokens} exceeds; raise it"
            )
        return self

    @property
    def steps(self) -> int:
        """The number of steps, over all stages."""
        return sum(stage.steps for stage in self.stages)

    @property
    def setup(self) -> str:
        """Hash of the configuration and the files it names, but for what changes no number.

        Defaults are left out, since they are part of the code.
        """
        unused: set[str] = {"name", "trackers", "checkpoint_every"}
        values = self.model_dump(mode="json", exclude=unused, exclude_defaults=True)
        data = [file_digest(path, whole=True) for path in _files_of(self.data)]
        return digest([values, data, [file_digest(path) for path in _model_files(self.model)]])

    @property
    def course(self) -> str:
        """The :attr:`setup` without the last stage's number of steps: what a longer run continues.

        The learning rate is constant after its warmup, so no step depends on that number.
        """
        *before, last = self.stages or (None,)
        stages = () if last is None else (*before, last.model_copy(update={"steps": 1}))
        return self.model_copy(update={"stages": stages}).setup

    @property
    def code(self) -> dict[str, str]:
        """Digests of the modules that the run goes through, and versions of packages."""
        unused = () if self.backend in ENGINES else _ENGINE_MODULES
        packages = ("torch", "transformers", *({"vllm"} & {self.backend}))
        graders = _GRADERS.get(self.data.kind, ())
        registered = [algorithm(stage.algorithm).build for stage in self.stages]
        return (
            _loop_code(unused)
            | code_of_parts(*registered, *(stage.estimator for stage in self.stages))
            | versions(*packages, *graders)
        )

    @property
    def key(self) -> str:
        """Hash of all that determines the result: configuration, files and code."""
        return key_of(self.setup, self.code)


def key_of(setup: str, code: Code) -> str:
    """The key of a run of that :attr:`~RunConfig.setup` by that code."""
    return digest([setup, dict(code)])[:12]


@cache
def _loop_code(without: tuple[str, ...]) -> dict[str, str]:
    """The loop's modules when first asked for: later changes don't affect this process."""
    return code_of("upge.training.loop", without=without)


def _model_files(model: str) -> list[Path]:
    """Files of a model's weights, settings and tokenizer; of the package's bases the weights."""
    base = base_folder(model)
    path = base or Path(model)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    # The package's bases change in no other way than their weights do.
    read = _WEIGHTS if base else _WEIGHTS + _SETTINGS
    return [file for file in files if file.suffix in read and file.is_file()]


def _files_of(data: Synthetic | JsonLines | Benchmarks | ReasoningGym) -> list[Path]:
    if isinstance(data, Benchmarks):
        return [path for name in data.sets if (path := local_file(name)) is not None]
    if isinstance(data, JsonLines):
        given = (data.train, data.validation, data.test)
        return [Path(path) for path in given if path is not None]
    return []
