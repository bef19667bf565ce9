from __future__ import annotations

import copy
import math
import warnings
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from mixlab import FP32, PRESETS, TF32, Recipe, Task, Trainer, load_task, track
from mixlab.optimizers import state_tensors
from mixlab.training.tasks import step_seed
from tests.small import SMALL_GPT

STATES = ("momentum_buffer", "exp_avg", "exp_avg_sq", "master", "compensation")


def trained(recipe: str, steps: int = 5, *, task: str | Task = "digits-mlp", loss_weight: float = 1.0, **options):
    task = load_task(task, loss_weight=loss_weight) if isinstance(task, str) else task
    trainer = Trainer(task, Recipe.parse(recipe), device="cpu", **options)
    return trainer, list(trainer.steps(steps))


def task_name(value: object) -> str | None:
    return f"small {value.name}" if isinstance(value, Task) else None


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


@pytest.mark.parametrize("recipe", PRESETS)
@pytest.mark.parametrize("task", ["digits-mlp", "digits-cnn", SMALL_GPT], ids=task_name)
def test_everything_is_stored_as_the_recipe_says(recipe, task):
    trainer, records = trained(recipe + ",scale=256" * PRESETS[recipe].autocast * (recipe == "amp-fp16"), 2, task=task)
    preset = trainer.recipe
    while not trainer.optimizer.state:  # the scaler of fp16-master looks for a scale first
        records += trainer.steps(1)
    trainer.backward()
    assert {p.dtype for p in trainer.model.parameters()} == {preset.weights.dtype}
    assert {p.grad.dtype for p in trainer.model.parameters()} == {preset.gradients.dtype}
    stored = {name: {t.dtype for n, t in state_tensors(trainer.optimizer) if n == name} for name in STATES}
    adam = trainer.task.optimizer != "sgd"
    assert stored == {
        "momentum_buffer": set() if adam else {preset.exp_avg.dtype},
        "exp_avg": {preset.exp_avg.dtype} if adam else set(),
        "exp_avg_sq": {preset.exp_avg_sq.dtype} if adam else set(),
        "master": {torch.float32} if preset.master_weights else set(),
        "compensation": {preset.weights.dtype} if preset.update == "kahan" else set(),
    }
    assert {name for name, _ in state_tensors(trainer.optimizer)} <= set(STATES)
    assert [record.step for record in records[:2]] == [0, 1]
    assert math.isfinite(records[0].loss)
    assert all(math.isfinite(value) for value in trainer.held_out()) or recipe == "fp16"


@pytest.mark.parametrize("recipe", ["fp16-master,scale=256", "bf16-master", "bf16-kahan", "bf16-sr", "lean-bf16"])
def test_low_precision_storage_resumes_bit_for_bit(recipe, tmp_path):
    whole, _ = trained(recipe, 6, task="digits-cnn")
    half, _ = trained(recipe, 3, task="digits-cnn")
    torch.save(half.state_dict(), tmp_path / "state.pt")
    resumed, _ = trained(recipe, 0, task="digits-cnn", probe_every=2)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    list(resumed.steps(3))
    assert torch.equal(weights(whole), weights(resumed))
    for (name, ours), (_, theirs) in zip(state_tensors(whole.optimizer), state_tensors(resumed.optimizer), strict=True):
        assert ours.dtype is theirs.dtype, name
        assert torch.equal(ours, theirs), name


def test_a_16_bit_gradient_of_a_float32_weight_is_the_rounded_one():
    plain, lean = trained("amp-bf16", 0)[0], trained("amp-bf16,gradients=bf16", 0)[0]
    for trainer in (plain, lean):
        trainer.backward()
    for p, q in zip(plain.model.parameters(), lean.model.parameters(), strict=True):
        assert q.grad.dtype is torch.bfloat16
        assert torch.equal(p.grad.bfloat16(), q.grad)


def test_stochastic_rounding_differs_from_step_to_step_and_seed_to_seed():
    first, again, other = (weights(trained("bf16-sr", 4, seed=seed)[0]) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, weights(trained("bf16,update=nearest", 4)[0]))


@pytest.mark.parametrize(
    ("task", "seeds", "steps"),
    [
        ("digits-mlp", 2, 120),
        ("digits-cnn", 2, 12),
        (SMALL_GPT, 2, 3),
        pytest.param("digits-mlp", 5, 180, marks=pytest.mark.slow),
        pytest.param("digits-cnn", 5, 17, marks=pytest.mark.slow),
        pytest.param("chars-gpt", 5, 3, marks=pytest.mark.slow),
    ],
    ids=task_name,
)
def test_native_amp_on_a_cpu_is_a_torch_amp_loop_bit_for_bit(task, seeds, steps):
    """torch's own autocast and scaler, by hand. (Some CPUs multiply in bf16 very slowly.)"""
    job = load_task(task) if isinstance(task, str) else task
    for seed in range(seeds):
        trainer, records = trained("amp-bf16,scaler=dynamic,growth_interval=3", steps, task=job, seed=seed, native=True)
        model = job.seeded_model(seed)
        knobs = {"sgd": {"momentum": 0.9}}.get(job.optimizer, {})
        kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[job.optimizer]
        optimizer = kind(model.parameters(), lr=job.lr, **knobs)
        scaler = torch.amp.GradScaler("cpu", growth_interval=3)
        for step in range(steps):
            inputs, targets = job.batch(seed, step)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten())
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        assert torch.equal(weights(trainer), torch.cat([p.detach().flatten() for p in model.parameters()]))
        assert trainer.scaler.get_scale() == scaler.get_scale() > 2.0**16
        assert not any(record.skipped for record in records)


def test_native_differs_from_emulated_on_a_cpu():
    assert not torch.equal(weights(trained("amp-bf16", 3, native=True)[0]), weights(trained("amp-bf16", 3)[0]))
    assert torch.equal(weights(trained("fp32", 3, native=True)[0]), weights(trained("fp32", 3)[0]))


class Attentive(nn.Sequential):
    """A perceptron with a softmax inside, which autocast computes in float32; its layers checkpointed or not."""

    def __init__(self, recompute: bool) -> None:
        super().__init__(nn.Linear(64, 32), nn.Softmax(-1), nn.LayerNorm(32), nn.Linear(32, 10))
        self.recompute = recompute

    def forward(self, x):
        return checkpoint(super().forward, x, use_reentrant=False) if self.recompute else super().forward(x)


@pytest.mark.parametrize("recipe", ["fp32", "amp-fp16,scale=256", "amp-bf16", "bf16"])
def test_checkpointed_layers_train_as_others_do(recipe):
    digits = load_task("digits-mlp")
    tasks = (replace(digits, make_model=lambda recompute=recompute: Attentive(recompute)) for recompute in (0, 1))
    plain, recomputed = (trained(recipe, 3, task=task)[0] for task in tasks)
    assert torch.equal(weights(plain), weights(recomputed))


def test_a_zeroed_step_is_taken():
    trainer, records = trained("amp-fp16,scale=2^40,on_overflow=zero", 2, task="digits-cnn")
    assert all(record.found_inf and not record.skipped for record in records)
    assert trainer.optimizer.state


def test_fp32_is_a_plain_loop_bit_for_bit():
    task = load_task("digits-mlp")
    trainer, records = trained("fp32", 20)
    model = task.seeded_model(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for step in range(20):
        inputs, targets = task.batch(0, step)
        loss = F.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert [record.loss for record in records] == losses
    assert torch.equal(weights(trainer), torch.cat([p.detach().flatten() for p in model.parameters()]))


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", ["amp-fp16", "amp-bf16"])
def test_amp_on_a_gpu_is_a_torch_amp_loop_bit_for_bit(recipe):
    task, parsed = load_task("digits-mlp"), Recipe.parse(recipe)
    trainer = Trainer(task, parsed, device="cuda")
    model = task.seeded_model(0).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cuda", enabled=recipe == "amp-fp16")
    for step, _ in enumerate(trainer.steps(50)):
        inputs, targets = (tensor.cuda() for tensor in task.batch(0, step))
        with torch.autocast("cuda", dtype=parsed.compute.dtype):
            loss = F.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert torch.equal(weights(trainer), torch.cat([p.detach().flatten() for p in model.parameters()]))


def test_a_power_of_two_scale_changes_no_bit_where_nothing_is_lost():
    assert torch.equal(weights(trained("fp32")[0]), weights(trained("fp32,scaler=static,scale=1024")[0]))


def test_the_same_seed_gives_the_same_run():
    (first, records), (second, again), (other, _) = (trained("amp-fp16", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(other))
    assert [replace(r, seconds=0) for r in records] == [replace(r, seconds=0) for r in again]


def test_probing_changes_no_number_and_leaves_the_random_numbers_alone():
    state = torch.get_rng_state()
    plain, probed = trained("amp-fp16", 6)[0], trained("amp-fp16", 6, probe_every=2)[0]
    assert torch.equal(weights(plain), weights(probed))
    assert torch.equal(torch.get_rng_state(), state)


class Noisy(nn.Module):
    """Dropout draws random numbers, and batch normalisation keeps buffers: a probe must disturb neither."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.out = nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 10)

    def forward(self, x):
        return self.out(self.drop(self.norm(x)))


def test_dropout_and_batch_norm_survive_probing_and_resuming():
    digits = load_task("digits-mlp")
    task = Task("noisy", Noisy, digits.draw, digits.held_out)
    plain, _ = trained("amp-bf16", 6, task=task)
    probed, _ = trained("amp-bf16", 6, task=task, probe_every=1)
    assert torch.equal(weights(plain), weights(probed))
    assert torch.equal(plain.model.norm.running_mean, probed.model.norm.running_mean)
    half, _ = trained("amp-bf16", 3, task=task)
    resumed = Trainer(task, half.recipe, device="cpu")
    resumed.load_state_dict(copy.deepcopy(half.state_dict()))
    assert [record.step for record in resumed.steps(3)] == [3, 4, 5]
    assert torch.equal(weights(plain), weights(resumed))


def test_dropout_does_not_depend_on_which_rows_were_drawn():
    digits = load_task("digits-mlp")
    masks = []

    class Drawing(nn.Linear):
        def forward(self, x):
            masks.append(torch.rand(3))
            return super().forward(x)

    def draw_more(generator):
        torch.rand(7, generator=generator)
        return digits.draw(generator)

    for draw in (digits.draw, draw_more):
        trained("fp32", 1, task=Task("drawing", lambda: Drawing(64, 10), draw, digits.held_out))
    assert torch.equal(*masks)
    assert torch.equal(masks[0], torch.rand(3, generator=torch.Generator().manual_seed(step_seed(0, 0, "forward"))))
    assert not torch.equal(masks[0], torch.rand(3, generator=torch.Generator().manual_seed(step_seed(0, 0))))


class Evaluated(Noisy):
    """With a part that the user froze in evaluation mode, one that always trains, and one that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.BatchNorm1d(64).eval()
        self.stubborn = AlwaysTraining(64)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("replaced", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.replaced = self.replaced + 1
        return super().forward(self.stubborn(self.frozen(x)))


class AlwaysTraining(nn.BatchNorm1d):
    def train(self, _mode: bool = True):
        return super().train(True)


def test_held_out_is_evaluation_and_leaves_no_trace():
    digits = load_task("digits-mlp")
    task = Task("evaluated", Evaluated, digits.draw, digits.held_out)
    trainer, _ = trained("fp32", 2, task=task)
    modes = {name: module.training for name, module in trainer.model.named_modules()}
    assert (modes["frozen"], modes["drop"], modes["stubborn"]) == (False, True, True)
    buffers = {name: (buffer, buffer.clone()) for name, buffer in trainer.model.named_buffers()}
    by_hand = copy.deepcopy(trainer.model).eval()
    with torch.no_grad():
        logits = by_hand(digits.held_out[0])
    expected = F.cross_entropy(logits, digits.held_out[1]).item()
    accuracy = (logits.argmax(-1) == digits.held_out[1]).float().mean().item()
    state = torch.get_rng_state()
    assert [trainer.held_out() for _ in range(3)] == [(expected, accuracy)] * 3
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: module.training for name, module in trainer.model.named_modules()} == modes
    for name, buffer in trainer.model.named_buffers():
        assert buffer is buffers[name][0], name
        assert torch.equal(buffer, buffers[name][1]), name
    interrupted, _ = trained("fp32", 1, task=task)
    interrupted.held_out()
    assert torch.equal(weights(trainer), weights(next_step(interrupted)))


def next_step(trainer: Trainer) -> Trainer:
    list(trainer.steps(1))
    return trainer


def test_an_evaluation_that_fails_puts_the_modes_back():
    digits = load_task("digits-mlp")
    trainer, _ = trained("fp32", 1, task=Task("noisy", Noisy, digits.draw, (torch.ones(3, 63), digits.held_out[1][:3])))
    with pytest.raises(RuntimeError, match="63"):
        trainer.held_out()
    assert all(module.training for module in trainer.model.modules())


def test_an_evaluation_that_draws_numbers_draws_the_same_again():
    digits = load_task("digits-mlp")

    class Sampling(nn.Linear):
        def forward(self, x):
            return super().forward(x + torch.randn_like(x))

    trainer, _ = trained("fp32", 1, task=Task("sampling", lambda: Sampling(64, 10), digits.draw, digits.held_out))
    state = torch.get_rng_state()
    assert trainer.held_out() == trainer.held_out()
    assert torch.equal(torch.get_rng_state(), state)


def partly_frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    model[0].requires_grad_(False)
    return model


@pytest.mark.parametrize("recipe", ["fp32", "amp-fp16", "lean-bf16", "amp-bf16,gradients=bf16"])
def test_frozen_layers_stay_and_the_others_are_probed(recipe):
    task = replace(load_task("digits-mlp"), make_model=partly_frozen)
    trainer, records = trained(recipe, 2, task=task, probe_every=1)
    assert [set(record.underflow) for record in records] == [{"2"}, {"2"}]
    first = task.seeded_model(0)[0].weight.to(trainer.recipe.weights.dtype)
    assert torch.equal(trainer.model[0].weight, first)
    assert not torch.equal(weights(trainer), weights(trained(recipe, 0, task=task)[0]))


def test_a_model_without_anything_to_train_is_named():
    digits = load_task("digits-mlp")
    with pytest.raises(ValueError, match="no parameter of the model of task digits-mlp requires a gradient"):
        Trainer(replace(digits, make_model=lambda: partly_frozen().requires_grad_(False)), Recipe())

    class Detached(nn.Linear):
        def forward(self, x):
            return super().forward(x).detach()

    with pytest.raises(ValueError, match="depends on no parameter that requires a gradient"):
        trained("fp32", 1, task=replace(digits, make_model=lambda: Detached(64, 10)))


class Recomputed(nn.Module):
    """One layer used in two segments, recomputed in backward or kept."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.first, self.norm, self.again, self.out = (
            nn.Linear(64, 32),
            nn.BatchNorm1d(32),
            nn.Linear(32, 32),
            nn.Linear(32, 10),
        )
        self.reentrant = reentrant

    def segment(self, x):
        return F.dropout(torch.tanh(self.again(x)), 0.25)

    def forward(self, x):
        x = self.norm(self.first(x))
        for _ in range(2):
            x = self.segment(x) if self.reentrant is None else checkpoint(self.segment, x, use_reentrant=self.reentrant)
        return self.out(x)


@pytest.mark.parametrize("recipe", ["fp32", "bf16", "amp-bf16"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_references_of_checkpointed_layers_are_those_of_kept_ones(recipe, reentrant):
    digits = load_task("digits-mlp")
    kept, recomputed = (
        trained(recipe, 0, task=replace(digits, make_model=lambda how=how: Recomputed(how)), probe_every=1)[0]
        for how in (None, reentrant)
    )
    expected, found = kept.reference_gradients(), recomputed.reference_gradients()
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert torch.equal(gradient, found[name]), name
        assert gradient.dtype is torch.float32
    assert all(p.grad is None for p in recomputed.model.parameters())
    assert torch.equal(recomputed.model.norm.running_mean, torch.zeros(32))
    for trainer in (kept, recomputed):
        list(trainer.steps(1))
    # With autocast a reentrant checkpoint casts the shared weight twice, and its two gradients meet in float32.
    assert torch.equal(weights(kept), weights(recomputed)) or (reentrant and recipe == "amp-bf16")


def test_references_are_in_float32_whatever_the_recipe_computes_in(monkeypatch):
    """On CUDA, products and convolutions in tf32 are allowed or not by `emulation.arithmetic`."""
    asked = []

    def arithmetic(device, compute=FP32):
        asked.append(compute)
        return nullcontext()

    trainer, _ = trained("tf32", 0)
    monkeypatch.setattr("mixlab.training.trainer.emulation.arithmetic", arithmetic)
    trainer.reference_gradients()
    trainer.backward()
    assert asked == [FP32, TF32]


@pytest.mark.gpu
def test_references_on_a_gpu_are_in_float32():
    task = load_task("digits-cnn")
    on_gpu, on_cpu = (
        Trainer(task, Recipe.parse("amp-bf16"), device=device).reference_gradients() for device in ("cuda", "cpu")
    )
    for name, gradient in on_cpu.items():
        difference = (on_gpu[name].cpu() - gradient).norm() / gradient.norm()
        assert difference < 1e-5, name  # tf32 would miss by 3e-4


class Looked(nn.Module):
    """Pixels as rows of a table."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(17, 4, sparse=sparse)
        self.out = nn.Linear(256, 10)

    def forward(self, x):
        return self.out(self.table(x).flatten(1))


def looked(sparse: bool) -> Task:
    digits = load_task("digits-mlp")

    def levels(batch):
        return (batch[0] * 16).long(), batch[1]

    return Task(
        "looked",
        lambda: Looked(sparse),
        lambda generator: levels(digits.draw(generator)),
        levels(digits.held_out),
        lambda parameters, lr: torch.optim.SGD(parameters, 0.1),
    )


@pytest.mark.parametrize("recipe", ["fp32", "amp-fp16", "bf16"])
def test_a_sparse_embedding_trains_as_a_dense_one(recipe):
    (dense, expected), (sparse, records) = (
        trained(recipe, 3, task=looked(kind), probe_every=1) for kind in (False, True)
    )
    tolerance = {"fp32": 1e-5, "amp-fp16": 1e-3, "bf16": 1e-2}[
        recipe
    ]  # rows that are met again are added in another order
    assert torch.allclose(weights(dense).float(), weights(sparse).float(), rtol=tolerance, atol=tolerance)
    for one, other in zip(expected, records, strict=True):
        assert one.underflow.keys() == other.underflow.keys() == {"table", "out"}
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=10 * tolerance)
    assert all(gradient.layout is torch.strided for gradient in sparse.reference_gradients().values())


def test_a_probe_is_not_seen_by_track():
    trainer = Trainer(load_task("digits-mlp"), Recipe(), device="cpu", probe_every=1)
    with track(trainer.model) as probe:
        list(trainer.steps(1))
    assert {(stats.kind, stats.numel) for stats in probe if stats.layer == "output"} == {
        ("activation", 640),
        ("gradient", 640),
        ("weight_gradient", 650),
    }


def scripted_of(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(model)


def test_torchscript_trains_and_is_refused_by_name_where_it_cannot_be_probed():
    digits = load_task("digits-mlp")
    plain = replace(digits, make_model=partly_frozen)
    scripted = replace(digits, make_model=lambda: scripted_of(partly_frozen()))
    assert torch.equal(weights(trained("fp32", 2, task=plain)[0]), weights(trained("fp32", 2, task=scripted)[0]))
    with pytest.raises(TypeError, match="reference_gradients: the model is a TorchScript module"):
        trained("fp32", 1, task=scripted, probe_every=1)


def test_skipped_steps_leave_the_weights_and_lower_the_scale():
    trainer, records = trained("amp-fp16,scale=2^40", 4)
    assert [record.scale for record in records] == [2.0**40, 2.0**39, 2.0**38, 2.0**37]
    assert all(record.skipped and record.found_inf and not math.isfinite(record.grad_norm) for record in records)
    assert torch.equal(weights(trainer), weights(trained("amp-fp16", 0)[0]))


def test_without_a_scaler_an_overflow_is_found_and_not_skipped():
    _, records = trained("fp16", 3, task="digits-cnn")
    assert math.isnan(records[-1].loss)
    assert records[-1].found_inf
    assert not records[-1].skipped


def test_underflow_is_the_share_that_fp32_would_have_kept():
    trainer, records = trained("amp-fp16,scaler=static,scale=1", 3, loss_weight=1e-6, probe_every=2)
    layers = {name.rpartition(".")[0] for name, _ in trainer.model.named_parameters()}
    assert [set(record.underflow) for record in records] == [layers, set(), layers]
    assert records[0].underflow["hidden1"] > 0.99
    _, records = trained("fp32", 1, loss_weight=1e-6, probe_every=1)
    assert set(records[0].underflow.values()) == {0.0}


def test_the_loss_weight_is_not_in_the_recorded_loss():
    assert trained("fp32", 1)[1][0].loss == trained("fp32", 1, loss_weight=2.0**-20)[1][0].loss


def test_stopping_is_to_stop_iterating():
    trainer = Trainer(load_task("digits-mlp"), Recipe.parse("fp32"), device="cpu")
    for record in trainer.steps(100):
        if record.step == 2:
            break
    assert trainer.step == 3


def test_a_pure_fp16_scaler_is_allowed_so_that_one_can_watch_it():
    _, records = trained("fp16,scaler=static,scale=1024", 2)
    assert all(math.isfinite(record.loss) for record in records)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "digits-mlp"}, r"task must be a Task, got 'digits-mlp'; load_task\(name\)"),
        ({"recipe": None}, "a recipe must be a Recipe or its text, such as 'amp-fp16', got None"),
        ({"seed": -1}, "seed must be a whole number from 0 to 9223372036854775807, got -1"),
        ({"seed": 0.5}, "seed must be a whole number from 0 to 9223372036854775807, got 0.5"),
        ({"probe_every": -1}, "probe_every must be a whole number from 0 up, got -1"),
        ({"device": "tpu9"}, "device must be cpu, cuda or cuda:<number>, got 'tpu9'"),
        ({"device": ""}, "device must be cpu, cuda or cuda:<number>, got ''"),
    ],
)
def test_bad_input_is_named(arguments, message):
    arguments = {"task": load_task("digits-mlp"), "recipe": PRESETS["fp32"]} | arguments
    with pytest.raises((TypeError, ValueError, RuntimeError), match=message):
        Trainer(**arguments)


@pytest.mark.parametrize("count", [-1, 1.5, "3", None, True])
def test_a_bad_count_is_named(count):
    with pytest.raises(ValueError, match="count must be a whole number from 0 up, got"):
        list(Trainer(load_task("digits-mlp"), PRESETS["fp32"], device="cpu").steps(count))
