"""The classic tutorial's program: a classifier, its loop and its evaluation.

Written for PyTorch; the import lines are all that was changed.
"""

import lowgrad as torch
import lowgrad.nn as nn
import lowgrad.nn.functional as F
import lowgrad.optim as optim
from lowgrad.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(784, 128)
        self.fc2 = nn.Linear(128, 64)
        self.fc3 = nn.Linear(64, 10)

    def forward(self, x):
        x = torch.flatten(x, 1)  # flatten all dimensions except batch
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        x = self.fc3(x)
        return x


def train(net, trainset, epochs, batch_size=64):
    trainloader = DataLoader(trainset, batch_size=batch_size, shuffle=False)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    losses = []

    for epoch in range(epochs):  # loop over the dataset multiple times
        running_loss = 0.0
        for i, data in enumerate(trainloader, 0):  # noqa: B007  (as in the tutorial)
            # get the inputs; data is a list of [inputs, labels]
            inputs, labels = data

            # zero the parameter gradients
            optimizer.zero_grad()

            # forward + backward + optimize
            outputs = net(inputs)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()

            # print statistics
            running_loss += loss.item()
            losses.append(loss.item())
        print(f"[{epoch + 1}] loss: {running_loss / (i + 1):.3f}")
    return losses


def evaluate(net, testset):
    correct = 0
    total = 0
    # since we're not training, we don't need to calculate the gradients for our outputs
    with torch.no_grad():
        for data in DataLoader(testset, batch_size=64):
            images, labels = data
            outputs = net(images)
            # the class with the highest energy is what we choose as prediction
            _, predicted = torch.max(outputs.data, 1)
            total += labels.size(0)
            correct += (predicted == labels).sum().item()
    return correct / total


if __name__ == "__main__":
    torch.manual_seed(0)
    images = torch.randn(640, 1, 28, 28)
    labels = (images.reshape(640, -1)[:, :10]).argmax(1)
    dataset = TensorDataset(images, labels)
    net = Net()
    train(net, dataset, epochs=3)
    print(f"accuracy on what it was trained on: {100 * evaluate(net, dataset):.1f} %")
