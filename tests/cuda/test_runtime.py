"""The runtime on the mock GPU: memory to the byte, streams, moved inputs, failures."""

import gc

import numpy as np
import pytest

import lowgrad
import lowgrad.nn.functional as F
from lowgrad import nn, optim

OUT_OF_MEMORY, ILLEGAL_ADDRESS, TOO_MANY_RESOURCES, NO_BINARY = 2, 700, 701, 209


def network():
    """A step with state, an argument and a result; its parameters."""
    lowgrad.manual_seed(2)
    net = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 4)).cuda()
    optimizer = optim.AdamW(net.parameters(), lr=0.01)

    @lowgrad.compile
    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step, net


def batch(seed=0, device="cuda"):
    """Sixteen samples."""
    g = lowgrad.Generator().manual_seed(seed)
    x, y = lowgrad.randn(8, 16, generator=g), lowgrad.randint(0, 4, (8,), generator=g)
    return x.to(device), y.to(device)


def settled(mock):
    """Bytes in use once all that was freed is given back."""
    gc.collect()
    lowgrad.cuda.synchronize()
    return mock.used


# Memory ---------------------------------------------------------------------------------------


def test_a_step_takes_its_plan_and_not_a_byte_more(mock):
    step, _ = network()
    x, y = batch()
    compiled = step.lower(x, y)
    before = settled(mock)
    mock.reset()

    loss = step(x, y)
    lowgrad.cuda.synchronize()

    scalars = 64 * sum(v.type.shape == () for v in compiled.graph.inputs)
    plan = compiled.plan
    assert mock.peak - before == plan.arena_bytes + scalars
    assert settled(mock) - before == plan.held_bytes + 4 + scalars
    asked = [int(line.split()[1]) for line in mock.calls("cuMemAllocAsync")]
    assert sorted(asked) == sorted([plan.held_bytes, 4, scalars])
    assert loss.item() > 0


def test_later_calls_allocate_their_results_only(mock):
    step, _ = network()
    x, y = batch()
    step(x, y)
    for _ in range(3):
        mock.reset()
        step(x, y)
        assert [line.split()[1] for line in mock.calls("cuMemAllocAsync")] == ["4"]
        assert not mock.calls("cuLaunchKernelEx")
        assert not mock.calls("cuMemcpyDtoDAsync")
        assert len(mock.calls("cuMemcpyHtoDAsync")) == 1, "all numbers of the host in one copy"
        assert len(mock.calls("cuGraphLaunch")) == 1


def test_memory_is_counted_as_it_is_asked_for(mock):
    start = lowgrad.cuda.memory_allocated()
    lowgrad.cuda.reset_peak_memory_stats()

    x = lowgrad.ones(1000, device="cuda")
    assert lowgrad.cuda.memory_allocated() == start + 4000
    del x
    gc.collect()

    assert lowgrad.cuda.memory_allocated() == start
    assert lowgrad.cuda.max_memory_allocated() == start + 4000
    assert lowgrad.cuda.mem_get_info()[1] == 16 << 30


def test_replays_do_not_grow(mock):
    step, _ = network()
    x, y = batch()
    for _ in range(3):
        step(x, y)
    used = settled(mock)
    for _ in range(50):
        step(x, y)
    assert settled(mock) == used


# Results and inputs -----------------------------------------------------------------------------


def test_results_stay_valid_after_later_calls(mock):
    step, _ = network()
    x, y = batch()

    losses = [step(x, y) for _ in range(4)]

    values = [loss.item() for loss in losses]
    assert len(set(values)) == 4
    assert values == sorted(values, reverse=True)


def test_inputs_that_moved_are_seen(mock):
    double = lowgrad.compile(lambda x, y: ((x * 2).sum() + y.sum(), x.T @ y))
    for seed in range(3):
        g = lowgrad.Generator().manual_seed(seed)
        x, y = lowgrad.randn(8, 16, generator=g), lowgrad.randn(8, 4, generator=g)
        total, product = double(x.cuda(), y.cuda())
        np.testing.assert_allclose(total.item(), (x.sum() * 2 + y.sum()).item(), rtol=1e-4)
        np.testing.assert_allclose(product.tolist(), (x.T @ y).tolist(), rtol=1e-4, atol=1e-5)
    assert double.recordings == 1


def test_a_view_is_an_argument_like_any_other(mock):
    x = lowgrad.arange(24, dtype=lowgrad.float32).reshape(4, 6)
    views = {
        "transposed": lambda t: t.T,
        "from a place kernels can begin to read": lambda t: t[2:],
        "from one they cannot": lambda t: t[1:],
        "columns": lambda t: t[:, 1:4],
        "a chain": lambda t: t.flip(0)[:, :2].T[::2],
        "a long chain": lambda t: t.T.flip(1).T.flip(0).T[1:].T,
    }
    for make in views.values():
        total = lowgrad.compile(lambda v: (v * v).sum(0))
        assert total(make(x.cuda())).tolist() == total(make(x)).tolist()
        assert make(x.cuda()).tolist() == make(x).tolist()


def test_a_run_time_number_is_read_at_each_call(mock):
    step, net = network()
    x, y = batch()
    step(x, y)
    cells = [c.cell_contents for c in step.__wrapped__.__closure__]
    optimizer = next(c for c in cells if isinstance(c, optim.AdamW))
    before = net[0].weight.tolist()
    optimizer.param_groups[0]["lr"] = 0.0
    step(x, y)

    assert net[0].weight.tolist() == before
    assert step.recordings == 1


def test_host_memory_may_change_as_soon_as_a_copy_was_asked_for(mock):
    values = np.arange(4, dtype=np.float32)
    x = lowgrad.from_numpy(values)
    pinned = x.pin_memory()
    assert pinned.is_pinned()
    assert not x.is_pinned()

    a = x.cuda()
    b = pinned.to("cuda", non_blocking=True)
    del pinned
    gc.collect()

    assert a.tolist() == b.tolist() == [0, 1, 2, 3]
    assert (
        len([c for c in mock.calls("cuMemcpyHtoDAsync") if "pinned" in c and c.split()[1] == "16"])
        == 1
    )


# Streams --------------------------------------------------------------------------------------


def test_work_goes_to_the_current_stream(mock):
    stream = lowgrad.cuda.Stream()
    x = lowgrad.ones(8).cuda()
    mock.reset()
    with lowgrad.cuda.stream(stream):
        y = x * 3
        assert lowgrad.cuda.current_stream() == stream
    assert hex(stream.cuda_stream) in mock.calls("cuMemAllocAsync")[0]
    stream.synchronize()
    assert y.tolist() == [3.0] * 8


def test_a_step_on_another_stream_waits_for_its_arena(mock):
    step, _ = network()
    x, y = batch()
    step(x, y)
    mock.reset()
    with lowgrad.cuda.stream(lowgrad.cuda.Stream()):
        step(x, y)
    assert mock.calls("cuStreamWaitEvent")


def test_events_measure_time(mock):
    start, end = (lowgrad.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    end.record()
    lowgrad.cuda.synchronize()
    assert start.elapsed_time(end) == 1.0  # the mock's clock counts events
    without_clock = lowgrad.cuda.Event()
    with pytest.raises(lowgrad.ArgumentError, match="recorded first"):
        without_clock.elapsed_time(end)
    without_clock.record()
    with pytest.raises(lowgrad.ArgumentError, match="without a clock"):
        without_clock.elapsed_time(end)


# Failures -------------------------------------------------------------------------------------


def test_no_memory_for_results_changes_nothing(mock):
    step, net = network()
    x, y = batch()
    step(x, y)
    before = [p.tolist() for p in net.parameters()]
    settled(mock)

    mock.configure(memory=mock.used)
    with pytest.raises(lowgrad.OutOfMemory, match=r"asked for, .* are free; this process holds"):
        step(x, y)
    mock.configure()

    assert [p.tolist() for p in net.parameters()] == before
    assert step(x, y).item() > 0


def test_an_arena_too_large_names_the_sizes(mock):
    step, net = network()
    x, y = batch()
    lowgrad.cuda.synchronize()
    before = [p.tolist() for p in net.parameters()]
    mock.configure(memory=mock.used + 64)

    with pytest.raises(lowgrad.cuda.OutOfMemoryError, match=r"cuda:0: .* asked for"):
        step(x, y)

    mock.configure()
    assert [p.tolist() for p in net.parameters()] == before


def test_sync_names_the_kernel_that_fails(mock):
    from lowgrad import config

    step, _ = network()
    x, y = batch()
    step.lower(x, y)  # makes the optimizer's state
    with config.changed(sync=True):
        mock.fail("cuStreamSynchronize", ILLEGAL_ADDRESS, after=2)
        with pytest.raises(lowgrad.DeviceFault, match=r"kernel \w+ of step failed") as caught:
            step(x, y)
    assert "test_runtime.py" in caught.value.at


def test_a_fault_without_sync_says_how_to_find_it(mock):
    x = lowgrad.ones(4).cuda()
    mock.fail("cuMemcpyDtoHAsync", ILLEGAL_ADDRESS)
    with pytest.raises(lowgrad.DeviceFault, match="LOWGRAD_SYNC=1"):
        x.tolist()


def test_a_launch_that_asks_for_too_much_names_the_kernel(mock):
    x = lowgrad.ones(8).cuda()
    mock.fail("cuLaunchKernelEx", TOO_MANY_RESOURCES)
    with pytest.raises(lowgrad.LaunchError, match=r"cannot be started: grid \(1, 1, 1\)"):
        x.cos()


def test_a_gpu_that_is_too_old_says_so(mock, monkeypatch):
    from lowgrad.runtime.cuda import gpu

    mock.configure(capability=75)
    monkeypatch.setattr(gpu, "_gpus", {})
    with pytest.raises(lowgrad.DeviceError, match=r"compute capability 7\.5; .* need 8\.0"):
        lowgrad.ones(3).cuda()
    mock.configure()


def test_operands_on_two_devices_are_refused(mock):
    with pytest.raises(lowgrad.DeviceError, match="different devices"):
        lowgrad.ones(40).cuda() + lowgrad.ones(40)
    with pytest.raises(lowgrad.DeviceError, match="different devices"):
        lowgrad.ones(40).cuda() + lowgrad.ones(40, device="cuda:1")
    assert (lowgrad.ones(3).cuda() * lowgrad.tensor(2.0)).tolist() == [2.0] * 3

    step = lowgrad.compile(lambda a, b: a + b)
    with pytest.raises(lowgrad.DeviceError, match="several devices"):
        step(lowgrad.ones(40).cuda(), lowgrad.ones(40))


def test_numpy_is_refused_for_what_is_not_on_the_cpu(mock):
    with pytest.raises(lowgrad.DeviceError, match=r"on cuda:0"):
        lowgrad.ones(3).cuda().numpy()
    assert lowgrad.ones(3).cuda().cpu().numpy().tolist() == [1.0] * 3


def test_a_second_gpu_has_its_own_memory_and_kernels(mock):
    x = lowgrad.ones(4, device="cuda:1")
    assert x.device == lowgrad.device("cuda", 1)
    assert x.get_device() == 1
    assert (x + 1).device.index == 1
    with lowgrad.cuda.device(1):
        assert lowgrad.zeros(2, device="cuda").device.index == 1
    assert lowgrad.zeros(2, device="cuda").device.index == 0
    assert (x.to("cuda:0") + 1).tolist() == [2.0] * 4
