"""The demo runs, learns, compares, checks and writes."""

from __future__ import annotations

import pytest

from lowgrad.demo.run import demo

pytestmark = pytest.mark.triton


def test_the_demo_learns_and_writes_everything_down(tmp_path, capsys):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")

    reached = demo(tmp_path, epochs=6)

    text = capsys.readouterr().out
    assert reached > 0.93
    assert "Kernels checked without a GPU: 11 of 11 equal the reference" in text
    assert "same loss curve" in text
    assert (tmp_path / "overview.png").stat().st_size > 20_000
    assert (tmp_path / "fused" / "00-trace.ir").exists()
    assert len(list((tmp_path / "fused" / "kernels").iterdir())) == 11


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_twenty_epochs_reach_97_percent(seed, tmp_path):
    import lowgrad
    from lowgrad.demo.digits import Net, accuracy, digits
    from lowgrad.demo.run import train

    lowgrad.manual_seed(seed)
    training, test = digits(0)
    net = Net()
    train(net, training, 20, fuse=True)

    assert accuracy(net, test) >= 0.965
