"""Schedules: PyTorch's numbers over a hundred steps, and their state."""

import math

import pytest
import torch

import lowgrad
import lowgrad.optim as optim
from lowgrad.errors import ArgumentError

STEPS = 100


def decay(epoch):
    return 0.95**epoch


def sequence(lib, optimizer):
    parts = [
        lib.LinearLR(optimizer, 0.1, total_iters=10),
        lib.CosineAnnealingLR(optimizer, 30),
        lib.StepLR(optimizer, 7, 0.5),
        lib.ExponentialLR(optimizer, 0.99),
    ]
    return lib.SequentialLR(optimizer, parts, [10, 40, 70])


def restarts_after_warmup(lib, optimizer):
    warmup = lib.ConstantLR(optimizer, 0.2, total_iters=5)
    return lib.SequentialLR(
        optimizer, [warmup, lib.CosineAnnealingWarmRestarts(optimizer, 8, 2)], [5]
    )


def chain(lib, optimizer):
    return lib.ChainedScheduler(
        [
            lib.ConstantLR(optimizer, 0.1, total_iters=20),
            lib.ExponentialLR(optimizer, 0.97),
            lib.MultiStepLR(optimizer, [30, 60], 0.5),
        ]
    )


SCHEDULES = {
    "lambda": lambda lib, o: lib.LambdaLR(o, decay),
    "lambdas": lambda lib, o: lib.LambdaLR(o, [decay, lambda epoch: 1 / (1 + epoch)]),
    "step": lambda lib, o: lib.StepLR(o, 7, 0.5),
    "multi step": lambda lib, o: lib.MultiStepLR(o, [3, 50, 50, 80], 0.3),
    "constant": lambda lib, o: lib.ConstantLR(o, 0.25, 13),
    "linear": lambda lib, o: lib.LinearLR(o, 0.1, 0.8, 30),
    "exponential": lambda lib, o: lib.ExponentialLR(o, 0.96),
    "polynomial": lambda lib, o: lib.PolynomialLR(o, 60, 2.0),
    "cosine": lambda lib, o: lib.CosineAnnealingLR(o, 30, 0.001),
    "restarts": lambda lib, o: lib.CosineAnnealingWarmRestarts(o, 10, 2, 0.001),
    "restarts of one length": lambda lib, o: lib.CosineAnnealingWarmRestarts(o, 7),
    "one cycle": lambda lib, o: lib.OneCycleLR(o, 0.5, total_steps=STEPS + 1),
    "one cycle, linear": lambda lib, o: lib.OneCycleLR(
        o, [0.5, 0.3], epochs=11, steps_per_epoch=10, anneal_strategy="linear", three_phase=True
    ),
    "one cycle without momentum": lambda lib, o: lib.OneCycleLR(
        o, 0.5, total_steps=STEPS + 1, pct_start=0.1, cycle_momentum=False
    ),
    "sequence": sequence,
    "restarts after warmup": restarts_after_warmup,
    "chain": chain,
}


def optimizers(name="SGD", **arguments):
    """One of ours and one of PyTorch's, with two groups."""
    made = []
    for tensors, lib in ((lowgrad, optim), (torch, torch.optim)):
        p, q = (tensors.ones(1, requires_grad=True) for _ in range(2))
        groups = [{"params": [p]}, {"params": [q], "lr": 0.05}]
        made.append(getattr(lib, name)(groups, lr=0.1, **arguments))
    return made


def settings(optimizer):
    """What schedules change, of each group."""
    return [
        (float(g["lr"]), g.get("momentum", g.get("betas", [0])[0])) for g in optimizer.param_groups
    ]


def assert_near(got, want):
    for ours, theirs in zip(got, want, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-18)


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.filterwarnings("ignore:.*initial_step.*|.*`epoch` parameter.*:UserWarning")
def test_a_hundred_steps_are_pytorchs(name, kind):
    a, b = optimizers(kind, **({"momentum": 0.9} if kind == "SGD" else {}))
    ours, theirs = (
        SCHEDULES[name](optim.lr_scheduler, a),
        SCHEDULES[name](torch.optim.lr_scheduler, b),
    )
    for _ in range(STEPS):
        assert_near(settings(a), settings(b))
        assert_near([ours.get_last_lr()], [theirs.get_last_lr()])
        for optimizer, schedule in ((a, ours), (b, theirs)):
            optimizer.step()
            schedule.step()
    assert ours.last_epoch == theirs.last_epoch if hasattr(theirs, "last_epoch") else True


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
def test_reduce_on_plateau(mode, threshold_mode):
    a, b = optimizers()
    options = {
        "mode": mode,
        "threshold_mode": threshold_mode,
        "factor": 0.5,
        "patience": 3,
        "cooldown": 2,
        "threshold": 0.01,
        "min_lr": [1e-3, 1e-2],
    }
    ours = optim.lr_scheduler.ReduceLROnPlateau(a, **options)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(b, **options)

    for i in range(STEPS):
        metric = math.cos(i / 9) + 2
        ours.step(lowgrad.tensor(metric, dtype=lowgrad.float64))
        theirs.step(metric)
        assert_near(settings(a), settings(b))


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_loaded_schedule_goes_on_where_it_was(name):
    a, _ = optimizers(momentum=0.9)
    schedule = SCHEDULES[name](optim.lr_scheduler, a)
    for _ in range(15):
        a.step()
        schedule.step()
    b, _ = optimizers(momentum=0.9)
    loaded = SCHEDULES[name](optim.lr_scheduler, b)

    loaded.load_state_dict(schedule.state_dict())
    b.load_state_dict(a.state_dict())
    for _ in range(30):
        for optimizer, one in ((a, schedule), (b, loaded)):
            optimizer.step()
            one.step()
        assert settings(a) == settings(b)


def test_a_schedule_before_its_optimizer_is_warned_about():
    a, _ = optimizers()
    schedule = optim.lr_scheduler.ExponentialLR(a, 0.9)

    with pytest.warns(UserWarning, match="called before optimizer.step"):
        schedule.step()


REFUSED = {
    "no optimizer": (lambda s, o: s.StepLR(3, 1), TypeError, "int is not an Optimizer"),
    "lambdas": (lambda s, o: s.LambdaLR(o, [decay]), ArgumentError, "2 values are needed"),
    "factor": (lambda s, o: s.ConstantLR(o, 2.0), ArgumentError, r"from 0 to 1, not 2\.0"),
    "start": (lambda s, o: s.LinearLR(o, 0.0), ArgumentError, r"in \(0, 1\], not 0\.0"),
    "restart": (
        lambda s, o: s.CosineAnnealingWarmRestarts(o, 0),
        ArgumentError,
        "T_0 must be a positive int, not 0",
    ),
    "steps": (lambda s, o: s.OneCycleLR(o, 0.1), ArgumentError, "give total_steps, or epochs"),
    "resume": (lambda s, o: s.StepLR(o, 1, last_epoch=3), ArgumentError, "has no initial_lr"),
    "milestones": (
        lambda s, o: s.SequentialLR(o, [s.StepLR(o, 1)], [5]),
        ArgumentError,
        "1 schedulers need 0 milestones, not 1",
    ),
    "plateau": (
        lambda s, o: s.ChainedScheduler([s.ReduceLROnPlateau(o)]),
        ArgumentError,
        "scheduler 0 needs a metric",
    ),
    "no metric": (
        lambda s, o: s.ReduceLROnPlateau(o).step(),
        ArgumentError,
        r"needs the metric, step\(loss\)",
    ),
}


@pytest.mark.parametrize(("make", "error", "match"), REFUSED.values(), ids=REFUSED)
def test_wrong_arguments_are_refused(make, error, match):
    with pytest.raises(error, match=match):
        make(optim.lr_scheduler, optimizers()[0])
