"""A classifier of handwritten digits, as a PyTorch user would write it, with a compiled step."""

from __future__ import annotations

from typing import Any

import numpy as np

import lowgrad as torch
import lowgrad.nn as nn
import lowgrad.nn.functional as F
import lowgrad.optim as optim
from lowgrad.errors import MissingDependencyError
from lowgrad.utils.data import DataLoader, TensorDataset, random_split


class Net(nn.Module):
    """784-128-64-10 with ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 128)
        self.fc2 = nn.Linear(128, 64)
        self.fc3 = nn.Linear(64, 10)

    def forward(self, x: Any) -> Any:
        """[N, 1, 28, 28] -> [N, 10], the logits."""
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


def digits(seed: int = 0) -> tuple[Any, Any]:
    """Scikit-learn's 1,797 real digits, 8 x 8 enlarged to 28 x 28: (training set, test set)."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingDependencyError(
            "demo: scikit-learn is not installed", fix="pip install 'lowgrad[demo]'"
        ) from None
    data = load_digits()
    # Each pixel becomes 4 x 4; of the 32 x 32, the outermost 2 are empty.
    large = np.kron(data.images / 16.0, np.ones((4, 4)))[:, 2:30, 2:30]
    images = torch.from_numpy(large[:, None].astype(np.float32))
    labels = torch.from_numpy(data.target.astype(np.int64))
    generator = torch.Generator().manual_seed(seed)
    training, test = random_split(TensorDataset(images, labels), [1437, 360], generator=generator)
    return training, test


def training_step(net: Any, *, fuse: bool = True) -> Any:
    """The whole step (forward, loss, backward, update) as one compiled function."""
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(net.parameters(), lr=0.05, momentum=0.9)

    def step(images: Any, labels: Any) -> Any:
        optimizer.zero_grad()
        loss = criterion(net(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    return torch.compile(step, fuse=fuse)


def batches(training: Any, epoch: int) -> Any:
    """The training set in batches of 64, in an order of its own each epoch."""
    generator = torch.Generator().manual_seed(epoch)
    return DataLoader(training, batch_size=64, shuffle=True, drop_last=True, generator=generator)


def accuracy(net: Any, test: Any) -> float:
    """The share of the test set that is classified right."""
    correct = 0
    with torch.no_grad():
        for images, labels in DataLoader(test, batch_size=180):
            _, predicted = torch.max(net(images), 1)
            correct += (predicted == labels).sum().item()
    return correct / len(test)
