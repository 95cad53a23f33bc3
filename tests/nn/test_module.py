"""Module: attributes, walking, state, printing."""

import copy
import pickle

import numpy as np
import pytest
import torch
from twin import assert_same_module, numbers, ours

import lowgrad
import lowgrad.nn as nn
from lowgrad.errors import ArgumentError, CheckpointError


class Net(nn.Module):
    """A parameter, two buffers, two layers of which one is used twice."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(lowgrad.ones(3))
        self.register_buffer("steps", lowgrad.zeros(2))
        self.register_buffer("scratch", lowgrad.zeros(2), persistent=False)
        self.register_parameter("nothing", None)
        self.first = nn.Linear(3, 3)
        self.again = self.first

    def forward(self, x):
        """Three layers, two of them the same."""
        return self.again(self.first(x * self.scale))


def torch_net():
    net = torch.nn.Module()
    net.scale = torch.nn.Parameter(torch.ones(3))
    net.register_buffer("steps", torch.zeros(2))
    net.register_buffer("scratch", torch.zeros(2), persistent=False)
    net.register_parameter("nothing", None)
    net.first = torch.nn.Linear(3, 3)
    net.again = net.first
    return net


@pytest.mark.parametrize(
    "method", ["named_parameters", "named_buffers", "named_modules", "named_children"]
)
def test_names_and_their_order_are_pytorchs(method):
    ours_, theirs_ = ([n for n, _ in getattr(m, method)()] for m in (Net(), torch_net()))

    assert ours_ == theirs_


def test_state_dict_has_pytorchs_names_in_its_order():
    assert list(Net().state_dict()) == list(torch_net().state_dict())


def test_state_dicts_exchange_both_ways():
    net, reference = Net(), torch_net()

    net.load_state_dict(reference.state_dict())
    weights = {n: torch.from_numpy(t.detach().numpy()) for n, t in net.state_dict().items()}
    reference.load_state_dict(weights)

    for name, tensor in reference.state_dict().items():
        np.testing.assert_array_equal(net.state_dict()[name].numpy(), tensor.numpy())


@pytest.mark.parametrize("bad", ["missing", "unexpected", "shape", "not a tensor"])
def test_a_refused_load_changes_nothing(bad):
    net, state = Net(), dict(Net().state_dict())
    before = {n: t.detach().numpy() for n, t in net.state_dict().items()}
    if bad == "missing":
        del state["again.bias"]
    elif bad == "unexpected":
        state["head.weight"] = lowgrad.zeros(2, 2)
    else:
        state["again.weight"] = lowgrad.zeros(4, 3) if bad == "shape" else object()

    with pytest.raises(CheckpointError, match="nothing was loaded"):
        net.load_state_dict(state)

    for name, tensor in net.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[name])


def test_a_refused_load_lists_all_that_differs():
    state = dict(Net().state_dict())
    del state["scale"]
    state["head.weight"] = lowgrad.zeros(2, 2)
    state["first.bias"] = lowgrad.zeros(7)

    with pytest.raises(CheckpointError) as caught:
        Net().load_state_dict(state)

    text = str(caught.value)
    assert text.startswith("the state dict does not fit this Net; nothing was loaded\n")
    assert "  first.bias: state (7,), model (3,)\n" in text
    assert "  missing in the state: scale (3,)\n" in text
    assert "  not in the model: head.weight (2, 2)" in text


def test_a_lenient_load_reports_what_it_left_out():
    state = {"scale": lowgrad.full((3,), 5.0), "other": lowgrad.zeros(1)}
    net = Net()

    left_out = net.load_state_dict(state, strict=False)

    assert net.scale.tolist() == [5.0] * 3
    assert left_out.unexpected_keys == ["other"]
    assert "first.weight" in left_out.missing_keys
    assert repr(net.load_state_dict(net.state_dict())) == "<All keys matched successfully>"


def test_a_load_keeps_the_tensors_and_their_dtype():
    net = nn.Linear(2, 2)
    weight = net.weight

    net.load_state_dict(nn.Linear(2, 2).double().state_dict())

    assert net.weight is weight
    assert weight.dtype is lowgrad.float32
    assert weight.requires_grad


def test_writing_to_the_state_writes_to_the_module():
    net = nn.Linear(2, 2)

    net.state_dict()["weight"].fill_(3.0)

    assert net.weight.tolist() == [[3.0, 3.0], [3.0, 3.0]]


def test_a_deep_copy_is_apart_and_keeps_shared_parts_shared():
    net = Net()

    other = copy.deepcopy(net)
    with lowgrad.no_grad():
        other.scale.fill_(9.0)

    assert net.scale.tolist() == [1.0] * 3
    assert other.first is other.again
    assert isinstance(other.scale, nn.Parameter)
    assert other.scale.requires_grad


def test_a_pickled_module_computes_the_same():
    net = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.LayerNorm(4))
    x = ours(numbers(2, 3)).float()

    other = pickle.loads(pickle.dumps(net))

    np.testing.assert_array_equal(other(x).detach().numpy(), net(x).detach().numpy())
    assert repr(other) == repr(net)


def test_a_parameter_used_five_times_gets_the_sum_of_its_gradients():
    weight = nn.Parameter(lowgrad.tensor([2.0, 3.0]))

    for k in range(1, 6):
        weight.grad = None
        sum((weight[i % 2] * float(i) for i in range(k)), lowgrad.tensor(0.0)).backward()

        want = [sum(i for i in range(k) if i % 2 == j) for j in range(2)]
        assert weight.grad.tolist() == want


def test_training_reaches_all_modules_and_returns_the_model():
    net = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout()))

    assert net.eval() is net
    assert [m.training for m in net.modules()] == [False] * 4
    net.train()
    assert all(m.training for m in net.modules())


def test_apply_visits_children_first():
    seen = []

    nn.Sequential(nn.Linear(1, 1), nn.ReLU()).apply(lambda m: seen.append(type(m).__name__))

    assert seen == ["Linear", "ReLU", "Sequential"]


def test_to_converts_floats_only_and_keeps_handles():
    net = nn.Linear(2, 2)
    net.register_buffer("count", lowgrad.zeros(2, dtype=lowgrad.int64))
    weight = net.weight
    weight.sum().backward()

    assert net.to(lowgrad.float64) is net

    assert net.weight is weight
    assert weight.dtype is weight.grad.dtype is lowgrad.float64
    assert weight.requires_grad
    assert weight.is_leaf
    assert net.count.dtype is lowgrad.int64
    assert net.half().weight.dtype is lowgrad.float16
    assert net.bfloat16().weight.dtype is lowgrad.bfloat16
    assert net.to(lowgrad.ones(1)).weight.dtype is lowgrad.float32
    assert net.type(lowgrad.float64).count.dtype is lowgrad.float64
    with pytest.raises(TypeError, match="only floating dtypes"):
        net.to(lowgrad.int64)


def test_requires_grad_and_zero_grad():
    net = nn.Linear(2, 2)
    net(lowgrad.ones(1, 2)).sum().backward()

    net.zero_grad(set_to_none=False)
    assert net.bias.grad.tolist() == [0.0, 0.0]
    net.zero_grad()
    assert net.bias.grad is None
    assert not net.requires_grad_(False)(lowgrad.ones(1, 2)).requires_grad


def test_versions_count_changes_but_not_modes_or_equal_values():
    net = nn.Dropout(0.5)
    changes = {
        "mode": (lambda: net.eval(), 0),
        "equal": (lambda: setattr(net, "p", 0.5), 0),
        "other": (lambda: setattr(net, "p", 0.6), 1),
        "type": (lambda: setattr(net, "p", 1), 1),
        "new": (lambda: setattr(net, "note", []), 1),
        "parameter": (lambda: setattr(net, "w", nn.Parameter(lowgrad.ones(1))), 1),
        "module": (lambda: setattr(net, "m", nn.ReLU()), 1),
        "removal": (lambda: delattr(net, "m"), 1),
        "buffer": (lambda: net.register_buffer("b", None), 1),
    }
    for name, (change, count) in changes.items():
        before = net._version
        change()
        assert net._version - before == count, name


def test_a_subclass_must_call_super_first():
    class Early(nn.Module):
        def __init__(self):
            self.layer = nn.ReLU()

    with pytest.raises(AttributeError, match=r"Early: call super\(\).__init__\(\) first"):
        Early()


def test_wrong_members_are_refused():
    net = Net()
    with pytest.raises(TypeError, match=r"Net\.scale must be a Parameter or None, not Tensor"):
        net.scale = lowgrad.ones(3)
    with pytest.raises(TypeError, match=r"Net\.first must be a Module or None"):
        net.first = 3
    with pytest.raises(ArgumentError, match="a word without dots"):
        net.register_buffer("a.b", None)
    with pytest.raises(ArgumentError, match="has an attribute 'forward' already"):
        net.register_buffer("forward", None)
    with pytest.raises(AttributeError, match="'Net' object has no attribute 'weights'"):
        _ = net.weights


def test_an_attribute_becomes_a_parameter_and_the_other_way_round():
    net = nn.Module()
    net.x = 3
    net.x = nn.Parameter(lowgrad.ones(1))
    assert [n for n, _ in net.named_parameters()] == ["x"]
    net.x = None
    assert not list(net.parameters())
    assert net.x is None


def test_members_by_dotted_name():
    net = nn.Sequential(nn.Sequential(nn.Linear(2, 3)))
    net[0].register_buffer("count", lowgrad.zeros(1))

    assert net.get_submodule("0.0") is net[0][0]
    assert net.get_submodule("") is net
    assert net.get_parameter("0.0.weight") is net[0][0].weight
    assert net.get_buffer("0.count") is net[0].count
    with pytest.raises(AttributeError, match="Sequential has no submodule '7'"):
        net.get_submodule("0.7")
    with pytest.raises(AttributeError, match=r"has no parameter '0\.count'"):
        net.get_parameter("0.count")


def test_parameter_is_a_tensor_with_its_own_print():
    p = nn.Parameter(lowgrad.ones(2))

    assert p.requires_grad
    assert p.is_leaf
    assert repr(p) == "Parameter containing:\n" + repr(lowgrad.ones(2, requires_grad=True))
    assert not nn.Parameter(lowgrad.ones(2), requires_grad=False).requires_grad
    assert nn.Parameter(p * 2).grad_fn is None


LAYERS = {
    "Linear": (3, 4),
    "Linear without bias": (3, 4, False),
    "Bilinear": (3, 4, 5),
    "Identity": (),
    "Embedding": (5, 3),
    "Embedding padded": (5, 3, 1),
    "LayerNorm": (3,),
    "LayerNorm of two": ([4, 3], 1e-3),
    "LayerNorm without bias": (3, 1e-5, True, False),
    "LayerNorm plain": (3, 1e-5, False),
    "RMSNorm": (3,),
    "RMSNorm plain": (3, 1e-3, False),
    "Dropout": (0.1,),
    "Flatten": (),
    "Unflatten": (1, (3, 1)),
}
INPUTS = {"Embedding": [np.array([[0, 1], [4, 1]])], "Bilinear": [numbers(2, 3), numbers(2, 4)]}


@pytest.mark.parametrize(("name", "arguments"), LAYERS.items(), ids=LAYERS)
def test_layers_compute_and_print_as_pytorchs(name, arguments):
    kind = name.partition(" ")[0]
    module, reference = (getattr(lib, kind)(*arguments).eval() for lib in (nn, torch.nn))
    arrays = INPUTS.get(kind, [numbers(2, 3) if kind == "Unflatten" else numbers(2, 4, 3)])

    assert repr(module) == repr(reference)
    assert_same_module(module, reference, *arrays)


def test_a_model_prints_as_pytorchs():
    def model(lib):
        blocks = lib.ModuleList([lib.Linear(2, 2), lib.Linear(2, 2), lib.ReLU()])
        heads = lib.ModuleDict({"a": lib.Sequential(), "b": lib.Linear(2, 1)})
        return lib.Sequential(lib.Sequential(lib.Linear(1, 2), lib.Tanh()), blocks, heads)

    assert repr(model(nn)) == repr(model(torch.nn))


def test_embedding_from_pretrained_is_frozen():
    layer = nn.Embedding.from_pretrained(lowgrad.ones(3, 2))

    assert not layer.weight.requires_grad
    assert layer(lowgrad.tensor([2])).tolist() == [[1.0, 1.0]]
    assert nn.Embedding(4, 2, padding_idx=-1).weight[3].tolist() == [0.0, 0.0]


def test_forward_must_be_defined():
    with pytest.raises(NotImplementedError, match="Module has no forward"):
        nn.Module()(1)
