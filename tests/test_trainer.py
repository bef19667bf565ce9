from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from mixlab import PRESETS, Recipe, Task, Trainer, load_task
from mixlab.optimizers import state_tensors
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
        ({"recipe": "amp-fp16"}, r"recipe must be a Recipe, got 'amp-fp16'; Recipe.parse\(text\)"),
        ({"seed": -1}, "seed must be a whole number from 0 up, got -1"),
        ({"seed": 0.5}, "seed must be a whole number from 0 up, got 0.5"),
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
