from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn

from mixlab import optimizers
from mixlab.optimizers import Storage, decay_stalls, rise_ratio
from mixlab.probes import Lost, Share, swallowed, track_updates
from mixlab.probes.step_losses import look_before
from mixlab.recipes import Recipe
from mixlab.training import Trainer, load_task


class Weights(nn.Module):
    """A module that is nothing but one parameter."""

    def __init__(self, values, dtype=torch.float32):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(values).to(dtype))


def one_step(model, optimizer, gradient):
    model.w.grad = torch.tensor(gradient).to(model.w.dtype)
    optimizer.step()


def train(recipe, *, steps=40, lr=1e-4, every=1, task="digits-cnn", optimizer="adamw"):
    trainer = Trainer(replace(load_task(task), lr=lr, optimizer=optimizer), Recipe.parse(recipe), seed=0, device="cpu")
    with track_updates(trainer.model, trainer.optimizer, every=every) as lost:
        records = list(trainer.steps(steps))
    return lost, records


def test_weights_that_do_not_move_are_counted_among_those_that_should():
    model = Weights([1.0, 1.0, 1.0, 0.001], torch.bfloat16)
    optimizer = optimizers.SGD(model.parameters(), lr=1.0)
    with track_updates(model, optimizer) as lost:
        one_step(model, optimizer, [1e-3, 0.5, 0.0, 1e-5])
    assert lost["w"][0].swallowed == Share(1, 3)
    assert lost["w"][0].stuck_falling == Share(0, 0)


@pytest.mark.parametrize("make", [optimizers.AdamW, torch.optim.AdamW])
def test_an_optimizer_of_torch_is_watched_like_ours(make):
    model = Weights([1.0, 2.0, 0.5], torch.float32)
    optimizer = make(model.parameters(), lr=0.1)
    with track_updates(model, optimizer) as lost:
        one_step(model, optimizer, [1.0, 1e-30, 0.0])
        one_step(model, optimizer, [0.0, 0.0, 0.0])
    first, second = lost.by_step()
    assert first.vanished == Share(1, 2)  # 1e-60 is zero in float32
    assert first.stuck_rising == Share(1, 2)
    assert second.stuck_falling == Share(0, 1)
    assert second.decay_lost == Share(0, 3)
    assert second.eps_lost == Share(
        0, 2
    )  # beside a root of 1 float32 does not see 1e-8, and is not asked; beside 0 it does
    assert [one.step for one in lost["w"]] == [0, 1]


@pytest.mark.parametrize("beta2", [0.9, 0.99, 0.999])
def test_second_moments_stall_where_theory_says(beta2):
    roots = torch.linspace(0.5, 4, 800)
    model = Weights([0.0] * 800)
    storage = Storage(exp_avg_sq_dtype=torch.bfloat16)
    optimizer = optimizers.Adam(model.parameters(), betas=(0.9, beta2), storage=storage)
    one_step(model, optimizer, roots.tolist())
    v = optimizer.read_state(model.w, "exp_avg_sq")
    with track_updates(model, optimizer) as lost:
        one_step(model, optimizer, [0.0] * 800)
        one_step(model, optimizer, [100.0] * 800)
    stalled = sum(decay_stalls(value, "bf16", beta2) for value in v.tolist())
    assert lost["w"][0].stuck_falling == Share(stalled, 800)
    assert lost["w"][1].stuck_rising == Share(0, 800)


def test_second_moments_rise_where_theory_says():
    model = Weights([0.0] * 400)
    optimizer = optimizers.Adam(model.parameters(), storage=Storage(exp_avg_sq_dtype=torch.bfloat16))
    one_step(model, optimizer, torch.linspace(0.5, 4, 400).tolist())
    v = optimizer.read_state(model.w, "exp_avg_sq")
    ratios = torch.linspace(1.2, 7, 400)
    gradient = (v * ratios).sqrt()
    with track_updates(model, optimizer) as lost:
        one_step(model, optimizer, gradient.tolist())
    stuck = sum(
        float(g) ** 2 / value <= rise_ratio("bf16", 0.999, value) for g, value in zip(gradient, v.tolist(), strict=True)
    )
    assert lost["w"][0].stuck_rising.of == 400
    assert 0 < stuck < 400
    assert abs(lost["w"][0].stuck_rising.lost - stuck) <= 1  # a ratio within float32's rounding of the bound


def test_the_swallowed_share_is_that_of_a_float32_update():
    """The same step in float32, from the same weights and states, tells what was meant."""
    trainer = Trainer(replace(load_task("digits-cnn"), lr=1e-4), Recipe.parse("bf16-master"), seed=0, device="cpu")
    model, reference = trainer.model, []
    optimizer = optimizers.Adam(model.parameters(), lr=1e-4)
    for step in range(3):
        trainer.backward()
        pairs = [(p, p.detach().float().clone().requires_grad_()) for p in model.parameters()]
        exact = torch.optim.Adam([copy for _, copy in pairs], lr=1e-4)
        for p, copy in pairs:
            copy.grad = p.grad.float()
            if step:
                kept = {name: state.clone() for name, state in optimizer.state[p].items() if name != "step"}
                exact.state[copy] = {"step": torch.tensor(float(step)), **kept}
        before = [copy.detach().clone() for _, copy in pairs]
        exact.step()
        reference = [
            (swallowed(old, new.detach() - old, "bf16"), old.numel())
            for old, (_, new) in zip(before, pairs, strict=True)
        ]
        with track_updates(model, optimizer) as lost:
            optimizer.step()
    assert lost.total().swallowed.value > 0.3
    for (share, numel), seen in zip(reference, lost, strict=True):
        assert abs(seen.swallowed.value - share) <= max(0.02, 1.5 / numel)  # w + u is subtracted to find u


def test_what_repairs_is_seen_to_repair():
    shares = {name: train(name)[0].total() for name in ("bf16", "bf16-master", "bf16-kahan", "bf16-sr")}
    assert shares["bf16"].swallowed.value > 0.5
    assert shares["bf16-master"].swallowed.value < 0.01
    assert shares["bf16-kahan"].swallowed.value < 0.01
    assert shares["bf16"].stuck_falling.value > 0.99
    assert shares["bf16-master"].stuck_falling.value < 0.01
    assert shares["bf16"].decay_lost.value > 0.99
    assert shares["bf16-master"].decay_lost.value < 0.01
    assert shares["bf16-sr"].decay_lost.value == 0


@pytest.mark.parametrize(("fused", "lost_eps"), [(False, 2), (True, 0)])
def test_eps_is_lost_where_everything_is_computed_in_16_bits(fused, lost_eps):
    """torch's fused kernels compute in float32, where 1e-8 is not zero."""
    model = Weights([1.0, 1.0], torch.float16)
    optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
    with track_updates(model, optimizer) as lost:
        one_step(model, optimizer, [1e-4, 0.0])
    assert lost["w"][0].eps_lost == Share(lost_eps, 2)
    assert lost["w"][0].vanished == Share(1, 1)
    assert bool(model.w.isfinite().all()) == fused


def test_layers_and_steps_add_up():
    lost, records = train("bf16", steps=3)
    names = [name for name, _ in Trainer(load_task("digits-cnn"), Recipe(), device="cpu").model.named_parameters()]
    assert [(one.step, one.parameter) for one in lost] == [(step, name) for step in range(3) for name in names]
    assert len(lost) == 3 * len(names)
    total = lost.total()
    assert total.swallowed.lost == sum(one.swallowed.lost for one in lost)
    assert [one.parameter for one in lost.by_step()] == ["all"] * 3
    assert "swallowed" in str(total)
    assert len(records) == 3


def test_every_nth_step_is_watched_and_skipped_ones_never():
    lost, _ = train("fp32", steps=7, every=3)
    assert [one.step for one in lost.by_step()] == [0, 3, 6]
    lost, records = train("amp-fp16,scale=2^40", steps=10, lr=1e-3)
    assert len(lost.by_step()) == sum(not record.skipped for record in records) < 10


def test_nothing_is_watched_after_the_end():
    model = Weights([1.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with track_updates(model, optimizer) as lost:
        one_step(model, optimizer, [1.0])
    one_step(model, optimizer, [1.0])
    assert len(lost) == 1
    assert lost.total() == replace(lost["w"][0], parameter="all")


def test_watching_changes_nothing():
    _, records = train("bf16-sr", steps=5)
    trainer = Trainer(
        replace(load_task("digits-cnn"), lr=1e-4, optimizer="adamw"), Recipe.parse("bf16-sr"), seed=0, device="cpu"
    )
    assert [record.loss for record in trainer.steps(5)] == [record.loss for record in records]


def test_a_foreign_optimizer_is_watched_by_its_weights():
    class Plain(torch.optim.Optimizer):
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    p.data.sub_(p.grad)

    model = Weights([1.0, 1.0], torch.bfloat16)
    optimizer = Plain(model.parameters(), {})
    with track_updates(model, optimizer) as lost:
        one_step(model, optimizer, [1e-3, 0.5])
    assert lost["w"] == [Lost(0, "w", swallowed=Share(1, 2))]


def test_mistakes_are_named():
    model = Weights([1.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got list"):
        track_updates([model.w], optimizer)
    with pytest.raises(TypeError, match=r"optimizer must be a torch.optim.Optimizer, got str; a trainer has it as"):
        track_updates(model, "adam")
    with pytest.raises(ValueError, match=r"every must be a whole number from 1 up, got 0"):
        track_updates(model, optimizer, every=0)
    lost = track_updates(model, optimizer)
    with pytest.raises(RuntimeError, match=r"no step was seen; take steps"):
        lost.total()
    with pytest.raises(KeyError, match=r"nothing seen of 'v'; seen: nothing yet"):
        lost["v"]


def seen_by(model, optimizer, step, *, gradients):
    with track_updates(model, optimizer) as lost:
        for gradient in gradients:
            step(gradient)
    return list(lost)


@pytest.mark.parametrize("make", [optimizers.AdamW, torch.optim.AdamW, optimizers.SGD, torch.optim.SGD])
@pytest.mark.parametrize("given", ["positional", "keyword", "scheduled"])
def test_a_step_with_a_closure_is_judged_by_the_gradients_that_it_computes(make, given):
    """As the same steps without one: the first is seen, and none by the gradient before it."""
    gradients = ([1.0, 1e-30, 0.0], [0.0, 2.0, 0.0], [1e-3, 0.0, 1.0])
    ends = []
    for with_closure in (False, True):
        model = Weights([1.0, 2.0, 0.5])
        optimizer = make(model.parameters(), lr=0.1)
        if given == "scheduled":
            torch.optim.lr_scheduler.ConstantLR(optimizer)

        def closure(gradient, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            model.w.grad = torch.tensor(gradient)
            return 5.0

        def step(gradient, closure=closure, optimizer=optimizer, with_closure=with_closure):
            if not with_closure:
                closure(gradient)
                optimizer.step()
            elif given == "keyword":
                assert optimizer.step(closure=lambda: closure(gradient)) == 5.0
            else:
                assert optimizer.step(lambda: closure(gradient)) == 5.0

        ends.append((seen_by(model, optimizer, step, gradients=gradients), model.w.tolist()))
    assert ends[0] == ends[1]
    assert len(ends[0][0]) == 3


def test_a_closure_that_is_called_again_is_looked_at_once():
    model = Weights([1.0, 2.0])
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=5)

    def closure():
        optimizer.zero_grad()
        loss = (model.w - torch.tensor([3.0, 2.0])).square().sum()
        loss.backward()
        return loss

    with track_updates(model, optimizer, every=2) as lost:
        for _ in range(3):
            optimizer.step(closure)
    assert [(one.step, one.swallowed) for one in lost] == [(0, Share(0, 1)), (2, Share(0, 1))]


def test_float64_is_watched_in_float64():
    """Gradients and moments below float32's range, and a decay that float32 would lose."""
    model = Weights([1.0, 1.0, 1.0], torch.float64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-9, weight_decay=1e-3)
    with track_updates(model, optimizer) as lost:
        for gradient in ([1e-50, 1e-50, 0.0], [1e-60, 1e-40, 0.0]):
            model.w.grad = torch.tensor(gradient, dtype=torch.float64)
            optimizer.step()
    first, second = lost
    assert first == Lost(
        0, "w", Share(0, 2), Share(0, 0), Share(0, 2), Share(0, 2), eps_lost=Share(0, 3), decay_lost=Share(0, 3)
    )
    assert (second.stuck_falling, second.stuck_rising, second.vanished) == (Share(0, 1), Share(0, 1), Share(0, 2))
    assert second.decay_lost == Share(0, 3)


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.SGD])
def test_complex_weights_count_as_two(make):
    model, pairs = Weights([1 + 2j, 3j], torch.complex64), Weights([1.0, 2.0, 0.0, 3.0])
    seen = []
    for one, gradient in ((model, [1 + 1e-9j, 0j]), (pairs, [1.0, 1e-9, 0.0, 0.0])):
        optimizer = make(one.parameters(), lr=0.1)
        with track_updates(one, optimizer) as lost:
            one_step(one, optimizer, gradient)
            one_step(one, optimizer, gradient)
        seen.append(list(lost))
    assert seen[0] == seen[1]


def words(*, sparse):
    torch.manual_seed(0)
    model = nn.Module()
    model.words = nn.Embedding(6, 2, sparse=sparse)
    return model


@pytest.mark.parametrize("knobs", [{}, {"momentum": 0.9}])
def test_a_sparse_embedding_is_watched_like_a_dense_one(knobs):
    seen = []
    for sparse in (True, False):
        model = words(sparse=sparse)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-8, **knobs)
        with track_updates(model, optimizer) as lost:
            for rows in ([1, 1, 2], [2, 5, 2]):
                optimizer.zero_grad()
                model.words(torch.tensor(rows)).sum().backward()
                optimizer.step()
        seen.append(list(lost))
    assert seen[0] == seen[1]
    assert [one.swallowed.of for one in seen[0]] == ([4, 6] if knobs else [4, 4])
    assert seen[0][0].swallowed.lost > 0


def test_rows_that_sparse_adam_does_not_step_are_not_asked():
    model = words(sparse=True)
    optimizer = torch.optim.SparseAdam(model.parameters())
    with track_updates(model, optimizer) as lost:
        for rows in ([1, 1, 2], [2, 5]):
            optimizer.zero_grad()
            (model.words(torch.tensor(rows)) ** 2).sum().backward()
            optimizer.step()
    assert [one.swallowed for one in lost] == [Share(0, 4), Share(0, 4)]
    assert [one.vanished for one in lost] == [Share(0, 4), Share(0, 4)]
    assert lost["words.weight"][1].stuck_falling.lost == 0


def test_ours_refuse_a_sparse_embedding_by_name_under_a_watch():
    model = words(sparse=True)
    optimizer = optimizers.AdamW(model.named_parameters())
    model.words(torch.tensor([1])).sum().backward()
    with (
        track_updates(model, optimizer) as lost,
        pytest.raises(RuntimeError, match="gradients must be dense, got torch.sparse_coo of 'words.weight'"),
    ):
        optimizer.step()
    assert len(lost) == 0


@pytest.mark.parametrize(
    ("library", "name"),
    [
        (library, name)
        for library, names in (
            ("torch.optim", "Adadelta Adafactor Adagrad Adam AdamW Adamax ASGD NAdam RAdam RMSprop Rprop SGD"),
            ("optimi", "Adam AdamW Adan Lion RAdam Ranger SGD StableAdamW"),
        )
        for name in names.split()
    ],
)
def test_every_optimizer_of_torch_and_optimi_is_watched(library, name):
    """The weights are those of the same steps unwatched, and `swallowed` is counted from them."""
    make = getattr(pytest.importorskip(library), name)
    ends = []
    for watch in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
        optimizer = make(model.parameters(), lr=1e-3)
        with track_updates(model, optimizer, every=1 if watch else 100) as lost:
            for step in range(3):
                optimizer.zero_grad()
                model(torch.randn(5, 4, generator=torch.Generator().manual_seed(step))).square().sum().backward()
                before = model.weight.detach().clone()
                optimizer.step()
                stuck = int(((model.weight == before) & (model.weight.grad != 0)).sum())
        ends.append(model.weight.tolist())
    assert ends[0] == ends[1]
    assert lost["weight"][2].swallowed.lost == stuck
    watched = [one.stuck_rising.of + one.stuck_falling.of for one in lost["weight"]]
    if name in ("Adam", "AdamW"):
        assert watched == [12] * 3
        assert lost.total().stuck_rising.lost + lost.total().stuck_falling.lost == 0


def test_an_optimizer_with_amsgrad_or_decoupled_decay_is_watched_as_it_is_set():
    model = Weights([1.0, 1.0])
    optimizer = torch.optim.Adam(model.parameters(), weight_decay=1e-6, decoupled_weight_decay=True, amsgrad=True)
    with track_updates(model, optimizer) as lost:
        one_step(model, optimizer, [1e3, 1e3])
        optimizer.param_groups[0]["betas"] = (0.9, 0.0)
        one_step(model, optimizer, [0.0, 0.0])
    assert lost["w"][0].decay_lost == Share(2, 2)
    assert lost["w"][1].eps_lost == Share(0, 0)  # beside the largest second moment so far float32 does not see eps
    coupled = torch.optim.Adam(model.parameters(), weight_decay=0.5)
    with track_updates(model, coupled) as lost:
        one_step(model, coupled, [0.0, 0.0])
    assert lost["w"][0].decay_lost == Share(0, 0)
    assert lost["w"][0].stuck_rising.of == 2  # the decay is a gradient


class Wrapper(torch.optim.Optimizer):
    """As accelerate's AcceleratedOptimizer: an optimizer by class, which never calls Optimizer.__init__."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    state = property(lambda self: self.optimizer.state)
    param_groups = property(lambda self: self.optimizer.param_groups)
    defaults = property(lambda self: self.optimizer.defaults)

    def step(self, closure=None):
        return self.optimizer.step(closure)

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: optimizers.AdamW(p, storage=Storage("dynamic8", torch.float8_e4m3fn)),
        lambda p: optimizers.AdamW(p, storage=Storage(torch.bfloat16, torch.bfloat16, update="kahan")),
        torch.optim.AdamW,
    ],
)
@pytest.mark.parametrize("layers", [1, 2])
def test_a_wrapped_optimizer_is_watched_and_read_like_the_one_inside(make, layers):
    seen = []
    for wrapped in (False, True):
        model = Weights([1.0, 2.0, -0.5], torch.bfloat16)
        optimizer = inner = make(model.parameters())
        for _ in range(layers * wrapped):
            optimizer = Wrapper(optimizer)
        with track_updates(model, optimizer) as lost:
            for gradient in ([1.0, 0.1, 2.2e-3], [0.5, 0.0, 0.0]):
                one_step(model, optimizer, gradient)
        moments = [optimizers.read_state(optimizer, model.w, name).tolist() for name in ("exp_avg", "exp_avg_sq")]
        assert moments[1] == optimizers.read_state(inner, model.w, "exp_avg_sq").tolist()
        assert max(moments[1]) < 1
        seen.append((list(lost), moments))
    assert seen[0] == seen[1]
    assert len(inner._optimizer_step_pre_hooks) == 0


def test_what_has_no_hooks_is_named():
    with pytest.raises(TypeError, match="Wrapper has no hooks, since it does not call Optimizer.__init__; pass the"):
        track_updates(Weights([1.0]), Wrapper(None))


def test_codes_of_other_libraries_are_never_returned_as_values():
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    optimizer.state[parameter]["exp_avg"] = torch.full((3,), 255, dtype=torch.uint8)
    with pytest.raises(TypeError, match="'exp_avg' holds codes in torch.uint8, which only SGD reads"):
        optimizers.read_state(optimizer, parameter, "exp_avg")
    with pytest.raises(KeyError, match="this parameter has no 'exp_avg_sq' in SGD"):
        optimizers.read_state(optimizer, parameter, "exp_avg_sq")
    with pytest.raises(KeyError, match="this parameter has no 'exp_avg' in AdamW"):
        optimizers.read_state(optimizers.AdamW([parameter]), parameter, "exp_avg")
    model = Weights([1.0, 1.0, 1.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.state[model.w]["exp_avg"] = torch.full((3,), 255, dtype=torch.uint8)
    with track_updates(model, optimizer) as lost:
        one_step(model, optimizer, [1.0, 0.0, 0.0])
    assert lost["w"][0].swallowed == Share(0, 1)


def test_sharded_weights_of_torchs_optimizers_are_watched_by_this_process_part():
    from torch.distributed.tensor import DTensor, Shard, init_device_mesh

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        seen = []
        for sharded in (False, True):
            model = Weights([1.0, 2.0, 0.5])
            if sharded:
                model.w = nn.Parameter(DTensor.from_local(model.w.detach(), mesh, [Shard(0)]))
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-9)
            with track_updates(model, optimizer) as lost:
                for gradient in ([1.0, 1e-30, 0.0], [0.0, 1.0, 0.0]):
                    value = torch.tensor(gradient)
                    model.w.grad = DTensor.from_local(value, mesh, [Shard(0)]) if sharded else value
                    optimizer.step()
            seen.append(list(lost))
    finally:
        torch.distributed.destroy_process_group()
    assert seen[0] == seen[1]


def test_a_model_under_fully_shard_is_watched_like_the_one_inside():
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import init_device_mesh

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh, seen = init_device_mesh("cpu", (1,)), []
        for divided in (False, True):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
            if divided:
                fully_shard(model, mesh=mesh)
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-7)
            with track_updates(model, optimizer) as lost:
                for _ in range(3):
                    optimizer.zero_grad()
                    model(torch.ones(3, 4)).square().sum().backward()
                    optimizer.step()
            seen.append(list(lost))
    finally:
        torch.distributed.destroy_process_group()
    assert seen[0] == seen[1]
    assert lost.left_out == {}


def trained(make, steps, *, dtype=torch.float32, watch=True, **knobs):
    """Returns what was seen of three parameters in some steps, and their last weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2, bias=False)).to(dtype)
    optimizer = make(model.parameters(), **knobs)
    lost = track_updates(model, optimizer)
    generator = torch.Generator().manual_seed(1)
    with lost if watch else nullcontext():
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(5, 4, generator=generator).to(dtype)).square().sum().backward()
            optimizer.step()
    return lost, [p.tolist() for p in model.parameters()]


class Own(torch.optim.Optimizer):
    """An optimizer of a user's own; `second` makes its state exp_avg_sq."""

    def __init__(self, params, second=None, lr=1e-3, state="exp_avg_sq", **settings):
        super().__init__(params, {"lr": lr, **settings})
        self.second, self.name = second, state

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if self.second is not None:
                    v = state.get(self.name, torch.zeros_like(p))
                    state[self.name] = self.second(v, p.grad, p)
                self.move_(p, group["lr"])

    def move_(self, p, lr):
        p.sub_(lr * p.grad)


def test_the_second_moment_of_an_unknown_optimizer_is_judged_as_adams():
    """Whatever its decay, its name and the weight decay in it."""
    seen, ours = [], trained(torch.optim.Adam, 3, weight_decay=0.1, betas=(0.9, 0.99))[0]
    for name in ("exp_avg_sq", "square_avg", "state2", "variance"):

        def second(v, g, p):
            return 0.99 * v + 0.01 * (g + 0.1 * p) ** 2

        lost, _ = trained(Own, 3, second=second, state=name, weight_decay=0.1)
        assert lost.left_out == {}
        seen.append([(one.stuck_falling.of, one.stuck_rising.of, one.vanished.of) for one in lost])
    first = [(one.stuck_falling.of, one.stuck_rising.of, one.vanished.of) for one in ours][:3]
    assert all(one[:3] == first for one in seen)
    assert all(sum(kinds[:2]) == kinds[2] for one in seen for kinds in one)


@pytest.mark.parametrize(
    "second",
    [
        lambda v, g, p: v + g**2,
        lambda v, g, p: 0.99 * v + 0.01 * (g + 0.1) ** 2,
        lambda v, g, p: 0.99 * v + 0.01 * g.abs(),
        lambda v, g, p: torch.full_like(v, 3.0),
        lambda v, g, p: torch.full_like(v, torch.nan),
    ],
)
def test_what_is_called_a_second_moment_and_is_none_is_left_out_and_said(second):
    lost, weights = trained(Own, 3, second=second)
    assert weights == trained(Own, 3, second=second, watch=False)[1]
    assert set(lost.left_out.values()) == {"exp_avg_sq is no mean of the squared gradients"}
    assert list(lost.left_out) == ["0.weight", "0.bias", "1.weight"]
    assert [one.stuck_rising for one in lost if one.step == 2] == [Share()] * 3
    assert lost.total().swallowed.of == 3 * 21
    assert str(lost).splitlines()[1:] == [
        "left out of 0.weight, 0.bias, 1.weight: exp_avg_sq is no mean of the squared gradients"
    ]


@pytest.mark.parametrize(
    ("second", "dtype", "words"),
    [
        (
            lambda v, g, p: v * 0.9,
            torch.bfloat16,
            "whether exp_avg_sq is a mean of squared gradients cannot be told in",
        ),
        (lambda v, g, p: torch.ones_like(p, dtype=torch.uint8), torch.float32, "exp_avg_sq hold codes that only the"),
        (lambda v, g, p: torch.ones(2), torch.float32, "exp_avg_sq are not in the parameter's shape"),
    ],
)
def test_states_that_cannot_be_judged_are_left_out_with_the_reason(second, dtype, words):
    lost, _ = trained(Own, 2, second=second, dtype=dtype)
    assert {why[: len(words)] for why in lost.left_out.values()} == {words}
    assert {len([s for s in (one.stuck_falling, one.stuck_rising, one.vanished) if s.of]) for one in lost} == {0}


def test_a_parameter_that_cannot_be_read_is_left_out_and_the_training_goes_on(monkeypatch):

    def failing(optimizer, parameter):
        if parameter.dim() == 1:
            raise NotImplementedError("no such op")
        return look_before(optimizer, parameter)

    monkeypatch.setattr("mixlab.probes.update_tracking.look_before", failing)
    lost, weights = trained(torch.optim.SGD, 2, lr=0.1)
    assert weights == trained(torch.optim.SGD, 2, lr=0.1, watch=False)[1]
    assert lost.left_out == {"0.bias": "it could not be read: NotImplementedError: no such op"}
    assert len(lost) == 4


def test_a_first_step_that_only_begins_is_not_taken_for_a_loss():
    """As in ADOPT, whose first step makes the second moment and moves nothing."""

    class Waiting(Own):
        def move_(self, p, lr):
            if "seen" in self.state[p]:
                super().move_(p, lr)
            self.state[p]["seen"] = True

    lost, _ = trained(Waiting, 3, second=lambda v, g, p: 0.9 * v + 0.1 * g**2)
    assert {one.step for one in lost} == {1, 2}
    assert lost.total().swallowed.lost == 0
    assert set(lost.left_out.values()) == {
        "its first step moved no weight of the parameter, which it may not have meant to"
    }


def test_a_step_that_calls_its_parents_counts_once():
    class Projected(torch.optim.AdamW):
        def step(self, closure=None):
            loss = super().step(closure)
            for group in self.param_groups:
                for p in group["params"]:
                    p.data.clamp_(-1, 1)
            return loss

    lost, weights = trained(Projected, 4)
    plain, _ = trained(torch.optim.AdamW, 4)
    assert [(one.step, one.swallowed) for one in lost] == [(one.step, one.swallowed) for one in plain]
    assert weights == trained(Projected, 4, watch=False)[1]


def test_a_kahan_sum_of_optimi_holds_what_its_weight_does_not():
    optimi = pytest.importorskip("optimi")
    lost, _ = trained(optimi.AdamW, 5, dtype=torch.bfloat16, lr=1e-5, kahan_sum=True)
    plain, _ = trained(optimi.AdamW, 5, dtype=torch.bfloat16, lr=1e-5, kahan_sum=False)
    assert plain.total().swallowed.value > 0.8
    assert lost.total().swallowed.value < 0.1


@pytest.mark.parametrize("fused", [False, True])
def test_a_scaler_that_leaves_unscaling_to_a_fused_optimizer_changes_nothing(fused):
    """GradScaler hands its scale to fused optimizers, and they skip a step by themselves."""
    model = Weights([1.0, 2.0])
    optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    with track_updates(model, optimizer) as lost:
        for gradient in ([1.0, 1e-19], [torch.inf, 0.0], [0.01, 2.0]):
            optimizer.zero_grad()
            scaler.scale((model.w * torch.tensor(gradient)).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
    assert [one.step for one in lost] == [0, 1]
    assert [(one.vanished, one.stuck_rising, one.stuck_falling) for one in lost] == [
        (Share(0, 2), Share(0, 2), Share(0, 0)),
        (Share(0, 2), Share(0, 1), Share(0, 1)),
    ]


def test_the_sign_of_a_maximized_gradient_counts_beside_its_decay():
    model = Weights([1.0])
    optimizer = torch.optim.Adam(model.parameters(), weight_decay=1.0, maximize=True)
    with track_updates(model, optimizer) as lost:
        one_step(model, optimizer, [1.0])  # -1 + 1 * 1
    assert (lost["w"][0].stuck_rising.of, lost["w"][0].vanished.of) == (0, 0)


def test_what_was_lost_becomes_a_frame_and_words(monkeypatch):
    lost, _ = trained(torch.optim.AdamW, 2)
    frame = lost.to_frame()
    assert list(frame.columns)[:4] == ["step", "parameter", "swallowed", "swallowed_of"]
    assert list(frame.parameter) == ["0.weight", "0.bias", "1.weight"] * 2
    assert list(frame.swallowed_of) == [one.swallowed.of for one in lost]
    assert bool(trained(torch.optim.SGD, 1)[0].to_frame().vanished.isna().all())
    assert str(lost) == str(lost.total())
    assert str(track_updates(Weights([1.0]), torch.optim.SGD([torch.ones(1)]))) == "no step was seen"
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="track_updates.to_frame needs pandas; install it with pip install pandas"):
        lost.to_frame()
