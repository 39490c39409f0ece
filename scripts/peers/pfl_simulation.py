"""Runs one of Conclave's simulations in pfl: for scripts/bench_peers --simulation, which starts it by
`torchrun --nproc_per_node 2`. Each process simulates half of the clients.

    conclave recipe show recipes/fashion_small.toml > all.toml
    python pfl_simulation.py all.toml recipes/simulations/fashion_clients.toml

clients.py describes the output."""

import os
import time

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from pfl.privacy.gaussian_mechanism import GaussianMechanism
from pfl.privacy.privacy_mechanism import CentrallyAppliedPrivacyMechanism
from pfl.version import __version__ as pfl_version

from clients import examples_of, loss_of, model_of, read_arguments, tell


class Clock(TrainingProcessCallback):
    def __init__(self):
        self.seconds = [time.perf_counter()]

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        self.seconds.append(time.perf_counter())
        return False, Metrics()


def main():
    arguments, recipe, settings = read_arguments(__doc__)
    torch.set_num_threads(1)
    simulation, privacy = settings["simulation"], settings["client_privacy"]
    network = model_of(recipe, arguments.parameters)
    network.loss = lambda pixels, labels: loss_of(network, pixels, labels)
    network.metrics = lambda pixels, labels: {}
    model = PyTorchModel(network, torch.optim.SGD,
                         torch.optim.Adam(network.parameters(), lr=settings["strategy"]["server_rate"]))
    clients = {str(number): Dataset([pixels, labels], user_id=str(number))
               for number, (pixels, labels) in enumerate(examples_of(recipe, simulation["clients"]))}
    sampler = get_user_sampler("minimize_reuse", list(clients))
    mechanism = CentrallyAppliedPrivacyMechanism(GaussianMechanism(privacy["clip_norm"], 1.4))
    data = FederatedDataset(lambda user: clients[user], sampler)
    clock = Clock()
    FederatedAveraging().run(
        NNAlgorithmParams(central_num_iterations=arguments.rounds, evaluation_frequency=arguments.rounds + 1,
                          train_cohort_size=simulation["cohort"], val_cohort_size=None),
        SimulatedBackend(training_data=data, val_data=data, postprocessors=[mechanism]), model,
        NNTrainHyperParams(local_num_epochs=simulation["local_epochs"], local_learning_rate=simulation["client_rate"],
                           local_batch_size=simulation["local_batch"]),
        callbacks=[clock], send_metrics_to_platform=False)
    if os.environ.get("RANK", "0") == "0":
        tell(arguments, simulation["cohort"], clock.seconds, pfl_version)


if __name__ == "__main__":
    main()
