"""The model, the data, and how one is trained on the other."""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

_FEATURES = 8
_CLASSES = 3
_EXAMPLES = 96


class Net(nn.Module):
    """Two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(_FEATURES, 16)
        self.head = nn.Linear(16, _CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        """Class scores, ``(batch, 3)``."""
        scores: Tensor = self.head(torch.relu(self.hidden(features)))
        return scores


def make_net(seed: int = 0) -> Net:
    """A fresh model whose first weights are always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net()


def load_data(partition: int, batch_size: int) -> tuple[DataLoader, DataLoader]:
    """One partition's examples: three clouds of points, shifted a little in each partition."""
    generator = torch.Generator().manual_seed(100 + partition)
    labels = torch.randint(0, _CLASSES, (_EXAMPLES,), generator=generator)
    centres = torch.eye(_CLASSES, _FEATURES) * 3.0
    noise = torch.randn(_EXAMPLES, _FEATURES, generator=generator)
    features = centres[labels] + noise + 0.1 * partition
    cut = _EXAMPLES * 3 // 4
    training = TensorDataset(features[:cut], labels[:cut])
    testing = TensorDataset(features[cut:], labels[cut:])
    order = torch.Generator().manual_seed(partition)
    return (
        DataLoader(training, batch_size=batch_size, shuffle=True, generator=order),
        DataLoader(testing, batch_size=batch_size),
    )


def train(net: Net, loader: DataLoader, epochs: int, learning_rate: float) -> float:
    """Plain SGD; returns the mean loss of a batch."""
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=learning_rate)
    net.train()
    losses = []
    for _ in range(epochs):
        for features, labels in loader:
            optimizer.zero_grad()
            loss = criterion(net(features), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)


def test(net: Net, loader: DataLoader) -> tuple[float, float]:
    """Mean loss of a batch, and accuracy."""
    criterion = nn.CrossEntropyLoss()
    net.eval()
    losses, right = [], 0
    with torch.no_grad():
        for features, labels in loader:
            scores = net(features)
            losses.append(criterion(scores, labels).item())
            right += int((scores.argmax(dim=1) == labels).sum())
    return sum(losses) / len(losses), right / len(loader.dataset)
