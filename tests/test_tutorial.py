"""The classic tutorial's program runs word for word, and follows PyTorch step by step."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

PROGRAM = Path(__file__).parent.parent / "examples" / "tutorial.py"
STEPS = 100
BATCH = 64


def program(library: str) -> ModuleType:
    """The example, its import lines changed to those of `library`."""
    text = re.sub(r"\blowgrad\b", library, PROGRAM.read_text())
    module = ModuleType(f"tutorial_{library}")
    exec(compile(text, str(PROGRAM), "exec"), module.__dict__)
    return module


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Scikit-learn's real digits, enlarged to 28 x 28."""
    sklearn = pytest.importorskip("sklearn.datasets")
    data = sklearn.load_digits()
    large = np.kron(data.images / 16, np.ones((4, 4)))[:, 2:30, 2:30]
    return large[:, None].astype(np.float32), data.target.astype(np.int64)


def datasets(module: ModuleType, count: int):
    images, labels = digits()
    tensors = [module.torch.from_numpy(a[:count]) for a in (images, labels)]
    return module.TensorDataset(*tensors)


def same_weights(ours: ModuleType, theirs: ModuleType):
    net, reference = ours.Net(), theirs.Net()
    state = reference.state_dict()
    net.load_state_dict({k: ours.torch.from_numpy(v.numpy()) for k, v in state.items()})
    return net, reference


def test_the_program_follows_pytorch(capsys):
    ours, theirs = program("lowgrad"), program("torch")
    net, reference = same_weights(ours, theirs)

    losses = ours.train(net, datasets(ours, STEPS // 4 * BATCH), epochs=4)
    expected = theirs.train(reference, datasets(theirs, STEPS // 4 * BATCH), epochs=4)

    assert len(losses) == STEPS
    np.testing.assert_allclose(losses, expected, atol=1e-4)
    printed = capsys.readouterr().out.splitlines()
    assert printed[:4] == printed[4:]
    held_out = datasets(ours, 1797), datasets(theirs, 1797)
    assert ours.evaluate(net, held_out[0]) == pytest.approx(
        theirs.evaluate(reference, held_out[1]), abs=2 / 1797
    )


def test_the_compiled_step_follows_pytorch():
    ours, theirs = program("lowgrad"), program("torch")
    net, reference = same_weights(ours, theirs)
    criterion = ours.nn.CrossEntropyLoss()
    optimizer = ours.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

    @ours.torch.compile
    def step(inputs, labels):
        optimizer.zero_grad()
        loss = criterion(net(inputs), labels)
        loss.backward()
        optimizer.step()
        return loss

    loader = ours.DataLoader(datasets(ours, STEPS // 4 * BATCH), batch_size=BATCH)
    losses = [step(*batch).item() for _ in range(4) for batch in loader]
    expected = theirs.train(reference, datasets(theirs, STEPS // 4 * BATCH), epochs=4)

    assert step.recordings == 1
    np.testing.assert_allclose(losses, expected, atol=1e-4)
