"""Shared by the PyTorch versions of Conclave's models: Transformer layers with a mixture of experts, training steps,
and their timing and output.

It is optimized as by an experienced PyTorch user: fused attention; rows sorted by expert once per layer, so that each
expert is two dense products and no row is dropped; fused AdamW.
"""

import argparse
import json
import statistics
import time
import tomllib

import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    def __init__(self, hidden, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)

    def forward(self, x, mask):
        batch, length, hidden = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(y.transpose(1, 2).reshape(batch, length, hidden))


class Experts(nn.Module):
    def __init__(self, hidden, ffn, experts, top_k, bias_rate):
        super().__init__()
        self.top_k, self.bias_rate = top_k, bias_rate
        self.router = nn.Linear(hidden, experts, bias=False)
        self.up = nn.ModuleList(nn.Linear(hidden, ffn) for _ in range(experts))
        self.down = nn.ModuleList(nn.Linear(ffn, hidden) for _ in range(experts))
        self.register_buffer("selection_bias", torch.zeros(experts))
        self.register_buffer("load", torch.zeros(experts, dtype=torch.long))

    def forward(self, x):
        rows = x.flatten(0, 1)
        probabilities = self.router(rows).softmax(-1)
        chosen = (probabilities + self.selection_bias).topk(self.top_k, sorted=False).indices
        weights = probabilities.gather(1, chosen)
        weights = weights / weights.sum(-1, keepdim=True)
        flat = chosen.flatten()
        order = flat.argsort()
        self.load = flat.bincount(minlength=len(self.up))
        tokens = order // self.top_k
        parts = rows.index_select(0, tokens).split(self.load.tolist())
        results = [down(F.gelu(up(part))) for up, down, part in zip(self.up, self.down, parts)]
        results = torch.cat(results) * weights.flatten().index_select(0, order).unsqueeze(1)
        return torch.zeros_like(rows).index_add(0, tokens, results).view_as(x)

    @torch.no_grad()
    def balance(self):
        load = self.load.float()
        self.selection_bias += self.bias_rate * (load.mean() - load).sign()


class Layer(nn.Module):
    def __init__(self, model, moe, with_experts):
        super().__init__()
        hidden, ffn = model["hidden"], model["ffn"]
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.attention = Attention(hidden, model["heads"])
        if with_experts:
            self.feed_forward = Experts(hidden, ffn, moe["experts"], moe["top_k"], moe["bias_rate"])
        else:
            self.feed_forward = nn.Sequential(nn.Linear(hidden, ffn), nn.GELU(), nn.Linear(ffn, hidden))
        self.dropout = nn.Dropout(model["dropout"])

    def forward(self, x, mask):
        x = x + self.dropout(self.attention(self.attention_norm(x), mask))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


def layers_of(recipe):
    model, moe = recipe["model"], recipe["moe"]
    if moe["shared_experts"] > 0 or moe["balancer"] not in ("bias", "none") or moe["top_p"] < 1:
        raise SystemExit("the twin in PyTorch is only of recipes without shared experts, auxiliary loss, and "
                         "top_p below 1")
    if moe["balancer"] == "none":
        moe["bias_rate"] = 0.0
    return nn.ModuleList(Layer(model, moe, (i + 1) % moe["every"] == 0) for i in range(model["layers"]))


def read_arguments(description):
    """Parses the command line and reads the recipe; sets PyTorch's threads, device, precision and seed."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("recipe", help="complete, as `conclave recipe show` prints it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=50, help="measured")
    parser.add_argument("--warmup", type=int, default=10, help="steps before")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model, with dynamic shapes")
    parser.add_argument("--parameters", type=int, help="of Conclave's model; it is an error to have others")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    with open(arguments.recipe, "rb") as file:
        recipe = tomllib.load(file)
    torch.set_num_threads(arguments.threads)
    torch.set_default_device(arguments.device)
    if recipe["run"]["precision"] != "f32":
        torch.set_float32_matmul_precision("high")  # TF32, on CUDA devices
    torch.manual_seed(recipe["run"]["seed"])
    return arguments, recipe


def train(model, recipe, arguments, batches, loss_of):
    """Takes a step with each batch, a pair (inputs, number of tokens or images). The loss is loss_of(model, *inputs),
    with the compiled model if there is one. Returns tokens or images per second, the median over the steps after the
    warm-up, and the last loss."""
    settings = recipe["train"]
    count = sum(parameter.numel() for parameter in model.parameters())
    if arguments.parameters not in (None, count):
        raise SystemExit(f"the twin in PyTorch has {count} parameters, Conclave's model {arguments.parameters}: "
                         "it is not the same model")
    run = torch.compile(model, dynamic=True) if arguments.compile else model
    on_cuda = arguments.device == "cuda"
    rounded = torch.autocast("cuda", torch.bfloat16, enabled=on_cuda and recipe["run"]["precision"] == "bf16")
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings["learning_rate"],
                                  betas=(settings["beta1"], settings["beta2"]), eps=settings["epsilon"],
                                  weight_decay=settings["weight_decay"], fused=True)
    parameters = [parameter.detach() for parameter in model.parameters()]
    averages = [parameter.clone() for parameter in parameters] if settings["ema"] > 0 else []
    experts = [module for module in model.modules() if isinstance(module, Experts)]
    speeds, loss = [], None
    for step, (inputs, size) in enumerate(batches):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with rounded:
            loss = loss_of(run, *inputs)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings["clip_norm"], foreach=True)
        optimizer.step()
        if averages:
            torch._foreach_lerp_(averages, parameters, 1 - settings["ema"])
        for layer in experts:
            layer.balance()
        if on_cuda:
            torch.cuda.synchronize()
        if step >= arguments.warmup:
            speeds.append(size / (time.perf_counter() - start))
    return statistics.median(speeds), round(loss.item(), 4)


def tell(model, **figures):
    """Prints one JSON object."""
    print(json.dumps(figures | {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "torch": torch.__version__,
    }))
