"""Trains the model of a Conclave recipe on Fashion-MNIST in PyTorch on the CPU: for scripts/bench_peers.

The comparison favours PyTorch: its images are in memory, shuffled, and not shifted, flipped or erased, which Conclave's
training time includes. It trains with both memory formats, and the faster one counts. torch_training.py lists the other
optimizations.

    conclave recipe show recipes/fashion_mnist.toml > all.toml; python torch_images.py all.toml

prints one JSON object. images_per_second is the median over the steps after the warm-up; layouts has it for both
formats.
"""

import gzip

import torch
from torch import nn
from torch.nn import functional as F

from torch_training import layers_of, read_arguments, tell, train

LAYOUTS = {"default": torch.contiguous_format, "channels_last": torch.channels_last}
TRAINING = 55000  # images; the rest is the validation split
CLASSES = 10


def norm_of(image, channels):
    return nn.BatchNorm2d(channels) if image["norm"] == "batch" else nn.GroupNorm(channels // 8, channels)


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        middle = max(channels // 4, 1)
        self.squeeze, self.excite = nn.Linear(channels, middle), nn.Linear(middle, channels)

    def forward(self, x):
        factors = F.hardsigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        return x * factors[:, :, None, None]


class InvertedResidual(nn.Module):
    def __init__(self, image, channels, text):
        """A block in the notation of recipes, "k5 x4 c56 s2 se hs"."""
        super().__init__()
        words = text.split()
        sizes = {word[0]: int(word[1:]) for word in words if word[1:].isdigit()}
        window, self.channels, stride = sizes["k"], sizes["c"], sizes.get("s", 1)
        middle = sizes["x"] * channels

        def activation():
            return nn.Hardswish() if "hs" in words else nn.ReLU(inplace=True)

        parts = []
        if sizes["x"] > 1:
            parts += [nn.Conv2d(channels, middle, 1, bias=False), norm_of(image, middle), activation()]
        parts += [nn.Conv2d(middle, middle, window, stride, window // 2, bias=False,
                            groups=middle if image["depthwise"] else 1),
                  norm_of(image, middle), activation()]
        if "se" in words:
            parts.append(SqueezeExcite(middle))
        parts += [nn.Conv2d(middle, self.channels, 1, bias=False), norm_of(image, self.channels)]
        self.parts = nn.Sequential(*parts)
        self.adds = stride == 1 and self.channels == channels

    def forward(self, x):
        y = self.parts(x)
        return x + y if self.adds else y


class Classifier(nn.Module):
    def __init__(self, recipe):
        super().__init__()
        image, model = recipe["image"], recipe["model"]
        channels, hidden = image["stem"], model["hidden"]
        parts = [nn.Conv2d(1, channels, 3, 1, 1, bias=False), norm_of(image, channels), nn.Hardswish()]
        for text in image["blocks"]:
            parts.append(InvertedResidual(image, channels, text))
            channels = parts[-1].channels
        parts += [nn.Conv2d(channels, hidden, 1, bias=False), norm_of(image, hidden), nn.Hardswish()]
        self.encoder = nn.Sequential(*parts)
        self.embedding_dropout = nn.Dropout(model["embedding_dropout"])
        self.layers = layers_of(recipe)
        self.norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(model["dropout"])
        self.head = nn.Linear(2 * hidden, CLASSES)

    def forward(self, pixels):
        """pixels [images, 1, height, width] u8 -> the classes' scores"""
        x = self.encoder(pixels / 127.5 - 1).mean((2, 3))
        x = self.embedding_dropout(x.unsqueeze(1))  # sequences of one row
        for layer in self.layers:
            x = layer(x, None)
        x = self.norm(x).squeeze(1)
        return self.head(self.dropout(torch.cat([x, x], 1)))  # for one row, mean and maximum are equal


def read_idx(path):
    with gzip.open(path) as file:
        content = bytearray(file.read())
    shape = [int.from_bytes(content[at:at + 4], "big") for at in range(4, 4 + 4 * content[3], 4)]
    values = torch.frombuffer(content, dtype=torch.uint8, offset=4 + 4 * len(shape)).view(shape)
    return values.to(torch.get_default_device())


def batches_of(recipe, layout, number):
    directory, size = recipe["data"]["path"] or "/usr/share/datasets/fashion-mnist", recipe["train"]["batch_tokens"]
    images = read_idx(f"{directory}/train-images-idx3-ubyte.gz")[:TRAINING]
    labels = read_idx(f"{directory}/train-labels-idx1-ubyte.gz")[:TRAINING].long()
    # With one channel, both formats have the same bytes, but PyTorch chooses the format of results by the strides.
    images = images.unsqueeze(1) if layout == "default" else images.unsqueeze(3).permute(0, 3, 1, 2)
    places = torch.cat([torch.randperm(TRAINING) for _ in range(1 + number * size // TRAINING)])
    return [((images[chosen], labels[chosen]), size) for chosen in places.split(size)[:number]]


def main():
    arguments, recipe = read_arguments(__doc__)
    if recipe["data"]["source"] != "fashion_mnist" or recipe["image"]["tokens"] != "mean":
        raise SystemExit('torch_images: only recipes on Fashion-MNIST, with image.tokens = "mean"')
    if recipe["tasks"]["caption"] > 0 or recipe["tasks"]["generate"] > 0:
        raise SystemExit("torch_images: only recipes that classify, and do nothing else")

    def loss_of(model, pixels, labels):
        return F.cross_entropy(model(pixels), labels, label_smoothing=recipe["train"]["label_smoothing"])

    speeds = {}
    for layout, memory_format in LAYOUTS.items():
        model = Classifier(recipe).to(memory_format=memory_format)
        batches = batches_of(recipe, layout, arguments.warmup + arguments.steps)
        speeds[layout], loss = train(model, recipe, arguments, batches, loss_of)
    tell(model, images_per_second=max(speeds.values()), layouts=speeds, last_loss=loss)


if __name__ == "__main__":
    main()
