"""Trains the model of a Conclave recipe on Fashion-MNIST in PyTorch with differential privacy (DP-SGD, Opacus's ghost
clipping) on the CPU: for scripts/bench_peers --private_step.

Opacus assumes that each row of a layer belongs to one example, but a mixture of experts regroups rows. So the recipe
has one expert, which gets all rows. Here it is a dense feed-forward layer, without the router that Conclave still
computes. Batches have the size that Conclave samples on average. As in torch_images.py, images are not shifted, flipped
or erased.

    conclave recipe show recipe.toml > all.toml; python torch_private.py all.toml

prints one JSON object. images_per_second is for private steps, plain_images_per_second for plain steps, both with the
faster memory format.
"""

import time
import warnings

import torch
from opacus import PrivacyEngine, __version__ as opacus_version
from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import GradSampleModuleFastGradientClipping
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from torch_images import LAYOUTS, Classifier, batches_of
from torch_training import read_arguments, tell, train


def model_of(recipe):
    """The model, without in-place operations, which Opacus's hooks do not support."""
    model, hidden, ffn = Classifier(recipe), recipe["model"]["hidden"], recipe["model"]["ffn"]
    for layer in model.layers:
        layer.feed_forward = nn.Sequential(nn.Linear(hidden, ffn), nn.GELU(), nn.Linear(ffn, hidden))
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return model


def stored_apart(model):
    """Kinds of layers without ghost norms in Opacus, which computes per-example gradients for them."""
    ghost = GradSampleModuleFastGradientClipping.NORM_SAMPLERS
    return sorted({type(module).__name__ for module in model.modules()
                   if next(module.parameters(recurse=False), None) is not None and type(module) not in ghost})


def train_privately(model, recipe, arguments, batches):
    """Trains; returns images per second, the median over the steps after the warm-up."""
    settings, privacy = recipe["train"], recipe["privacy"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings["learning_rate"],
                                  betas=(settings["beta1"], settings["beta2"]), eps=settings["epsilon"],
                                  weight_decay=settings["weight_decay"])
    size = recipe["privacy"]["batch"]
    loader = DataLoader(TensorDataset(torch.zeros(100 * size)), batch_size=size)  # tells Opacus the batch size
    criterion = nn.CrossEntropyLoss(label_smoothing=settings["label_smoothing"])
    model, optimizer, criterion, _ = PrivacyEngine().make_private(
        module=model, optimizer=optimizer, criterion=criterion, data_loader=loader, poisson_sampling=False,
        noise_multiplier=privacy["noise_multiplier"], max_grad_norm=privacy["clip_norm"], grad_sample_mode="ghost")
    seconds = []
    for pixels, labels in batches:
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        criterion(model(pixels), labels).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    measured = sorted(seconds[arguments.warmup:])
    return size / measured[len(measured) // 2]


def main():
    arguments, recipe = read_arguments(__doc__)
    warnings.filterwarnings("ignore")  # about non-cryptographic noise and about hooks
    if recipe["moe"]["experts"] != 1:
        raise SystemExit("torch_private: Opacus knows no mixture of experts; set moe.experts and moe.top_k to 1")
    if arguments.parameters is not None:
        arguments.parameters -= recipe["model"]["layers"] * recipe["model"]["hidden"]  # routers
    recipe["train"]["batch_tokens"] = recipe["privacy"]["batch"]

    def loss_of(model, pixels, labels):
        return F.cross_entropy(model(pixels), labels, label_smoothing=recipe["train"]["label_smoothing"])

    private, plain = {}, {}
    for layout, memory_format in LAYOUTS.items():
        batches = batches_of(recipe, layout, arguments.warmup + arguments.steps)
        model = model_of(recipe).to(memory_format=memory_format)
        plain[layout], _ = train(model, recipe, arguments, batches, loss_of)
        model = model_of(recipe).to(memory_format=memory_format)
        missing = stored_apart(model)
        private[layout] = train_privately(model, recipe, arguments, [inputs for inputs, _ in batches])
    tell(model, images_per_second=max(private.values()), plain_images_per_second=max(plain.values()),
         layouts=private, without_ghost_norms=missing, opacus=opacus_version)


if __name__ == "__main__":
    main()
