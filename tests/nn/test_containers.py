"""Sequential, ModuleList, ModuleDict, ParameterList, ParameterDict."""

import pytest

import lowgrad
import lowgrad.nn as nn
from lowgrad.errors import IndexOutOfRange


def relus(count):
    return [nn.ReLU() for _ in range(count)]


def test_sequential_runs_in_order_and_is_indexed_like_a_list():
    a, b, c = nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)
    net = nn.Sequential(a, b, c)
    x = lowgrad.ones(1, 2)

    assert net(x).tolist() == c(b(a(x))).tolist()
    assert list(net) == [a, b, c]
    assert net[-1] is c
    assert list(net[:2]) == [a, b]
    assert len(net) == 3
    assert b in net
    with pytest.raises(IndexOutOfRange, match="index 3 is out of range for 3 modules"):
        net[3]


def test_sequential_by_names():
    net = nn.Sequential({"first": nn.Linear(2, 2), "act": nn.ReLU()})

    assert list(net.state_dict()) == ["first.weight", "first.bias"]
    assert net.act is net[1]


@pytest.mark.parametrize("kind", [nn.Sequential, lambda *m: nn.ModuleList(m)])
def test_lists_of_modules_change_like_lists(kind):
    a, b, c, d = relus(4)
    net = kind(a, b)

    net.append(c)
    net.insert(1, d)
    assert list(net) == [a, d, b, c]
    assert list(net._modules) == ["0", "1", "2", "3"]
    del net[0]
    assert net.pop(0) is d
    net[0] = a
    assert list(net) == [a, c]
    net.extend([b, d])
    del net[1:3]
    assert list(net) == [a, d]
    assert list(net._modules) == ["0", "1"]


def test_lists_add():
    a, b, c = relus(3)

    assert list(nn.Sequential(a, b) + nn.Sequential(c)) == [a, b, c]
    modules = nn.ModuleList([a])
    assert list(modules + [b, c]) == [a, b, c]  # noqa: RUF005  (the operator is what is tested)
    modules += [b]
    assert list(modules) == [a, b]


def test_module_dict():
    a, b = relus(2)
    modules = nn.ModuleDict({"a": a})

    modules["b"] = b
    modules.update({"c": nn.Tanh()})

    assert list(modules) == ["a", "b", "c"]
    assert list(modules.items())[1] == ("b", b)
    assert modules.pop("a") is a
    assert "a" not in modules
    assert len(modules) == 2
    modules.clear()
    assert not len(modules)


def test_parameter_list_registers_tensors():
    params = nn.ParameterList([lowgrad.ones(2), nn.Parameter(lowgrad.zeros(1))])

    params.append(lowgrad.ones(3))
    params[0] = lowgrad.zeros(4)

    assert [n for n, _ in params.named_parameters()] == ["0", "1", "2"]
    assert [tuple(p.shape) for p in params] == [(4,), (1,), (3,)]
    assert len(params[1:]) == 2
    assert params[-1].requires_grad
    with pytest.raises(IndexOutOfRange, match="index 3 is out of range for 3 parameters"):
        params[3]


def test_parameter_dict_registers_tensors():
    params = nn.ParameterDict({"w": lowgrad.ones(2)})

    params["b"] = lowgrad.zeros(1)

    assert [n for n, _ in params.named_parameters()] == ["w", "b"]
    del params["w"]
    assert list(params) == ["b"]
    assert "b" in params
    assert repr(params) == (
        "ParameterDict(\n  (b): Parameter containing: [lowgrad.float32 of size 1]\n)"
    )


@pytest.mark.parametrize("change", ["append", "insert", "pop", "del", "set"])
def test_a_change_of_a_list_is_a_new_version(change):
    modules = nn.ModuleList(relus(2))
    before = modules._version
    changes = {
        "append": lambda: modules.append(nn.ReLU()),
        "insert": lambda: modules.insert(0, nn.ReLU()),
        "pop": modules.pop,
        "del": lambda: modules.__delitem__(0),
        "set": lambda: modules.__setitem__(0, nn.Tanh()),
    }

    changes[change]()

    assert modules._version > before
