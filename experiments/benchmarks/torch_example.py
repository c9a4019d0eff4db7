"""The paper's network on MNIST in PyTorch, written as its users write it.

python -m experiments.benchmarks.torch_example --source_dir=DIR

The shape of pytorch/examples' mnist/main.py, with its data loaders of batches, its epochs, its log
of every tenth batch and its test at the end; the network, the optimizer, the one-cycle schedule,
the batch and the number of steps are those of experiments/quick.py, the learning rate a fifth of
it, since normalized inputs are larger. DIR holds the four archives.
torchvision's dataset is written out here, with the conversion and the normalization of an item
that its transforms do, but without the picture of PIL's that they begin with. As in the example no
other process loads data on a CPU, and one does on a GPU.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset

from jaxmnist.data import idx


class MNIST(Dataset):
    """The digits of two archives; an item is a normalized tensor and a label."""

    def __init__(self, source_dir: Path, split: str):
        images = idx.read_images(idx.find(source_dir, f"{split}-images-idx3-ubyte"))
        labels = idx.read_labels(idx.find(source_dir, f"{split}-labels-idx1-ubyte"), 10)
        self.images, self.labels = images[..., 0].copy(), labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        image = torch.from_numpy(self.images[index]).unsqueeze(0).float().div(255)  # ToTensor
        return image.sub_(0.1307).div_(0.3081), self.labels[index]  # Normalize


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        self.dropout = nn.Dropout(0.4)
        self.fc1 = nn.Linear(3136, 1024)
        self.fc2 = nn.Linear(1024, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        x = self.dropout(x)
        return F.log_softmax(self.fc2(x), dim=1)


def train(args, model, device, loader, optimizer, scheduler, epoch):
    model.train()
    for index, (data, target) in enumerate(loader):
        optimizer.zero_grad()
        loss = F.nll_loss(model(data.to(device)), target.to(device))
        loss.backward()
        optimizer.step()
        scheduler.step()
        if index % args.log_interval == 0:
            print(
                f"Train Epoch: {epoch} [{index * len(data)}/{len(loader.dataset)} "
                f"({100 * index / len(loader):.0f}%)]\tLoss: {loss.item():.6f}"
            )


def test(model, device, loader) -> dict[str, float]:
    model.eval()
    loss = correct = 0
    with torch.no_grad():
        for data, labels in loader:
            output, target = model(data.to(device)), labels.to(device)
            loss += F.nll_loss(output, target, reduction="sum").item()
            correct += output.argmax(dim=1).eq(target).sum().item()
    count = len(loader.dataset)
    print(f"Test set: Average loss: {loss / count:.4f}, Accuracy: {correct}/{count}")
    return {"loss": loss / count, "accuracy": correct / count}


def main() -> None:
    start = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source_dir", type=Path, required=True, help="with the four archives")
    parser.add_argument("--batch_size", type=int, default=100)
    parser.add_argument("--test_batch_size", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--lr", type=float, default=0.03)
    parser.add_argument("--warmup_steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log_interval", type=int, default=10)
    parser.add_argument("--max_steps", type=int, help="of an epoch; for tests")
    parser.add_argument("--output", type=Path, help="a JSON file for the results")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset = MNIST(args.source_dir, "train")
    if args.max_steps:
        dataset = torch.utils.data.Subset(dataset, range(args.max_steps * args.batch_size))
    # The example has no workers on a CPU, and one on a GPU.
    kwargs = {"num_workers": 1, "pin_memory": True} if device.type == "cuda" else {}
    train_loader = DataLoader(dataset, args.batch_size, shuffle=True, **kwargs)
    test_loader = DataLoader(MNIST(args.source_dir, "t10k"), args.test_batch_size, **kwargs)

    model = Net().to(device)
    optimizer = optim.SGD(model.parameters(), lr=args.lr, momentum=0.9, nesterov=True)
    steps, warmup = args.epochs * len(train_loader), args.warmup_steps
    scheduler = LambdaLR(
        optimizer,
        lambda step: step / warmup if step < warmup else (steps - step) / max(steps - warmup, 1),
    )
    for epoch in range(1, args.epochs + 1):
        train(args, model, device, train_loader, optimizer, scheduler, epoch)
    results = test(model, device, test_loader) | {"steps": steps}
    results["seconds"] = time.perf_counter() - start
    if args.output:
        args.output.write_text(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
