"""The fastest known training to 99 % on MNIST, written in PyTorch after its description.

python -m experiments.benchmarks.train_mnist_fast --source_dir=DIR [--output=FILE.json]

The recipe is that of https://github.com/tuomaso/train_mnist_fast: convolutions of 24 channels, 5x5,
and of 32, 3x3, both without padding and pooled before ReLU; a dense layer of 256; Adam at 0.01 with
betas 0.7 and 0.9 on PyTorch's one-cycle schedule; batches of 256, in the order of the file; one
epoch. Its images are normalized and in memory before the clock starts, as there. DIR holds the four
archives. The last line tells the test accuracy and the seconds of training; with --output they are
written too.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from jaxmnist.data import idx

MEAN, STD = 0.1307, 0.3081


def read(source_dir: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalized images (n, 1, 28, 28) and labels of two archives."""
    images = idx.read_images(idx.find(source_dir, f"{split}-images-idx3-ubyte"))
    labels = idx.read_labels(idx.find(source_dir, f"{split}-labels-idx1-ubyte"), 10)
    pixels = torch.from_numpy(images[:, None, :, :, 0].copy()).float().div_(255)
    return pixels.sub_(MEAN).div_(STD), torch.from_numpy(labels.copy()).long()


def network() -> nn.Module:
    layers = [
        *(nn.Conv2d(1, 24, 5), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(24, 32, 3), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(800, 256), nn.ReLU(), nn.Linear(256, 10)),
    ]
    return nn.Sequential(*layers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source_dir", type=Path, required=True, help="with the four archives")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_examples", type=int, help="of the training set; for tests")
    parser.add_argument("--output", type=Path, help="a JSON file for the results")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    images, labels = (x[: args.num_examples] for x in read(args.source_dir, "train"))
    test_images, test_labels = read(args.source_dir, "t10k")

    start = time.perf_counter()
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, betas=(0.7, 0.9))
    batches = list(zip(images.split(args.batch_size), labels.split(args.batch_size), strict=True))
    one_cycle = torch.optim.lr_scheduler.OneCycleLR
    schedule = one_cycle(optimizer, 0.01, total_steps=len(batches), cycle_momentum=False)
    for x, y in batches:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        schedule.step()
    seconds = time.perf_counter() - start

    model.eval()
    with torch.no_grad():
        answers = torch.cat([model(x).argmax(1) for x in test_images.split(2000)])
    accuracy = answers.eq(test_labels).double().mean().item()
    print(f"test accuracy {accuracy:.4f}, trained in {seconds:.2f} s")
    if args.output:
        results = {"train": seconds, "accuracy": accuracy}
        args.output.write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
