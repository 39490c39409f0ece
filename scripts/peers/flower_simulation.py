"""Runs one of Conclave's simulations in Flower, with one Ray worker per core: for scripts/bench_peers --simulation.
Clients clip their updates, which is faster than clipping on the server.

    conclave recipe show recipes/fashion_small.toml > all.toml
    python flower_simulation.py all.toml recipes/simulations/fashion_clients.toml

clients.py describes the output; Flower prints much more."""

import os
import time

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_DEDUP_LOGS"] = "0"

import torch
from flwr import __version__ as flower_version
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import fixedclipping_mod
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import DifferentialPrivacyClientSideFixedClipping, FedAdam
from flwr.simulation import run_simulation

from clients import examples_of, model_of, read_arguments, tell

WORKERS = 2


def main():
    arguments, recipe, settings = read_arguments(__doc__)
    simulation, privacy = settings["simulation"], settings["client_privacy"]
    seconds, number = [], len(examples_of(recipe, simulation["clients"]))
    client_app, server_app = ClientApp(), ServerApp()

    @client_app.train(mods=[fixedclipping_mod])
    def train(message, context):
        import clients as module  # a Ray process keeps state of its first client in this module
        if not hasattr(module, "made"):
            torch.set_num_threads(1)
            module.made = module.model_of(recipe), module.examples_of(recipe, simulation["clients"])
        model, clients = module.made
        pixels, labels = clients[context.node_config["partition-id"]]
        model.load_state_dict(message.content["arrays"].to_torch_state_dict(), strict=False)  # without buffers
        optimizer = torch.optim.SGD(model.parameters(), lr=simulation["client_rate"])
        size = simulation["local_batch"]
        for _ in range(simulation["local_epochs"]):
            for some, answers in zip(pixels.split(size), labels.split(size)):
                optimizer.zero_grad()
                module.loss_of(model, some, answers).backward()
                optimizer.step()
        content = RecordDict({"arrays": ArrayRecord(dict(model.named_parameters())),
                              "metrics": MetricRecord({"num-examples": 1})})
        return Message(content=content, reply_to=message)

    @server_app.main()
    def serve(grid, context):
        strategy = DifferentialPrivacyClientSideFixedClipping(
            FedAdam(fraction_train=simulation["cohort"] / number, fraction_evaluate=0.0,
                    min_available_nodes=number, eta=settings["strategy"]["server_rate"]),
            noise_multiplier=1.4, clipping_norm=privacy["clip_norm"], num_sampled_clients=simulation["cohort"])
        strategy.start(grid=grid, initial_arrays=ArrayRecord(dict(model_of(recipe, arguments.parameters).named_parameters())),
                       num_rounds=arguments.rounds,
                       evaluate_fn=lambda done, arrays: seconds.append(time.perf_counter()))

    run_simulation(server_app, client_app, number,
                   backend_config={"init_args": {"num_cpus": WORKERS, "include_dashboard": False},
                                   "client_resources": {"num_cpus": 1, "num_gpus": 0.0}})
    tell(arguments, simulation["cohort"], seconds, flower_version)


if __name__ == "__main__":
    main()
