"""Feed-forward networks: classifiers, an autoencoder, a mixer."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.programs import Program, supervised


def classifier(lib: Any, batch: int = 64) -> Program:
    """The classic tutorial's classifier, 784-128-64-10, SGD with momentum."""
    nn, F = lib.nn, lib.F

    class Net(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.fc1 = nn.Linear(784, 128)
            self.fc2 = nn.Linear(128, 64)
            self.fc3 = nn.Linear(64, 10)

        def forward(self, x: Any) -> Any:
            x = lib.top.flatten(x, 1)
            x = F.relu(self.fc1(x))
            x = F.relu(self.fc2(x))
            return self.fc3(x)

    net = Net()
    optimizer = lib.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    images, labels = images_and_labels(batch, (1, 28, 28), 10)
    return supervised(lib, net, optimizer, nn.CrossEntropyLoss(), (images, labels))


def wide_net(lib: Any, batch: int = 512, width: int = 4096) -> Program:
    """1024-4096-4096-1000 with GELU, cross-entropy and Adam."""
    nn = lib.nn
    net = nn.Sequential(
        nn.Linear(1024, width),
        nn.GELU(),
        nn.Linear(width, width),
        nn.GELU(),
        nn.Linear(width, 1000),
    )
    optimizer = lib.optim.Adam(net.parameters(), lr=1e-3)
    return supervised(
        lib, net, optimizer, lib.F.cross_entropy, images_and_labels(batch, (1024,), 1000)
    )


def autoencoder(lib: Any, batch: int = 256) -> Program:
    """784-256-32-256-784, sigmoid and binary cross-entropy of pixels, Adam."""
    nn = lib.nn
    net = nn.Sequential(
        nn.Linear(784, 256),
        nn.ReLU(),
        nn.Linear(256, 32),
        nn.ReLU(),
        nn.Linear(32, 256),
        nn.ReLU(),
        nn.Linear(256, 784),
        nn.Sigmoid(),
    )
    optimizer = lib.optim.Adam(net.parameters(), lr=1e-3)
    pixels = np.random.default_rng(0).uniform(size=(batch, 784)).astype(np.float32)
    return supervised(lib, net, optimizer, lib.F.binary_cross_entropy, (pixels, pixels.copy()))


def noisy_regression(lib: Any, batch: int = 512) -> Program:
    """Eight inputs to one number through LayerNorm, SiLU and dropout; Huber's loss, AdamW."""
    nn = lib.nn
    net = nn.Sequential(
        nn.Linear(8, 256),
        nn.LayerNorm(256),
        nn.SiLU(),
        nn.Dropout(0.1),
        nn.Linear(256, 256),
        nn.LayerNorm(256),
        nn.SiLU(),
        nn.Linear(256, 1),
    )
    optimizer = lib.optim.AdamW(net.parameters(), lr=1e-3)
    random = np.random.default_rng(0)
    x = random.standard_normal((batch, 8)).astype(np.float32)
    y = np.sin(x.sum(axis=1, keepdims=True))
    return supervised(lib, net, optimizer, lib.F.huber_loss, (x, y))


def mixer(lib: Any, batch: int = 64, patches: int = 49, width: int = 128) -> Program:
    """Two blocks that mix patches, then channels (Tolstikhin et al. 2021, "MLP-Mixer"); AdamW."""
    nn, F = lib.nn, lib.F

    class Mlp(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, width: int, hidden: int) -> None:
            super().__init__()
            self.up = nn.Linear(width, hidden)
            self.down = nn.Linear(hidden, width)

        def forward(self, x: Any) -> Any:
            return self.down(F.gelu(self.up(x)))

    class Block(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.patches = nn.LayerNorm(width), Mlp(patches, 2 * patches)
            self.norm2, self.channels = nn.LayerNorm(width), Mlp(width, 4 * width)

        def forward(self, x: Any) -> Any:
            x = x + self.patches(self.norm1(x).transpose(1, 2)).transpose(1, 2)
            return x + self.channels(self.norm2(x))

    class Mixer(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(48, width)
            self.blocks = nn.Sequential(Block(), Block())
            self.norm = nn.LayerNorm(width)
            self.head = nn.Linear(width, 100)

        def forward(self, x: Any) -> Any:
            return self.head(self.norm(self.blocks(self.stem(x))).mean(dim=1))

    net = Mixer()
    optimizer = lib.optim.AdamW(net.parameters(), lr=1e-3)
    data = images_and_labels(batch, (patches, 48), 100)
    return supervised(lib, net, optimizer, F.cross_entropy, data)


def images_and_labels(batch: int, shape: tuple[int, ...], classes: int) -> tuple[Any, Any]:
    """Random inputs [batch, *shape], float32, and a class for each."""
    random = np.random.default_rng(0)
    images = random.standard_normal((batch, *shape)).astype(np.float32)
    return images, random.integers(0, classes, batch)
