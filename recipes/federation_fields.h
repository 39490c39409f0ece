// Every field of federation.toml, site.toml and simulation.toml, once; see recipe_fields.h.
#pragma once

#include "recipes/federation.h"
#include "recipes/recipe_fields.h"

namespace conclave::recipe_fields {

template <Either<FederationTable> R, class Visitor>
void fields(R& federation, Visitor&& field) {
  field("name", federation.name, "What the federation is called in certificates", not_empty());
  field("directory", federation.directory,
        "Folder for the global model's checkpoints and for what a restarted coordinator goes on from",
        not_empty());
  field(
      "kits", federation.kits,
      "Folder for start-up kits: of the authority, of the coordinator, and of each site, to be handed to it",
      not_empty());
  field("address", federation.address, "host:port where sites reach the coordinator", not_empty());
  field("listen", federation.listen,
        "host:port where the coordinator listens; empty for all interfaces at the port of address",
        any_text());
  field(
      "start", federation.start,
      "Checkpoint that the first round begins with: its recipe, tokenizer and classes are the federation's; "
      "`conclave federate initialize` makes one",
      any_text());
  field("sites", federation.sites,
        "Names of the sites, each of which is given a start-up kit; let in is who stands in sites.txt in the "
        "coordinator's, also one that is no longer named here, until `conclave federate provision --revoke` "
        "takes it out",
        not_empty());
  field("certificate_days", federation.certificate_days, "How long certificates hold", between(1, 3650));
  field("rounds", federation.rounds, "Times that the sites' updates are made the next global model",
        between(1, 1e6));
  field("local_steps", federation.local_steps, "Steps of training that each site takes in a round",
        between(1, 1e6));
  field("quorum", federation.quorum, "Updates without which a round does not end; 0: those of all sites",
        between(0, 1e5));
  field("gather_seconds", federation.gather_seconds,
        "How long a round waits for sites that have not begun it, unless all that are let in have delivered",
        between(0, 1e6));
  field("deadline_seconds", federation.deadline_seconds,
        "After how long a round no longer waits for sites that have begun it, once there is a quorum",
        between(0, 1e7));
  field("keep", federation.keep, "Checkpoints that stay, 0 for all", between(0, 1e6));
}

template <Either<StrategyTable> R, class Visitor>
void fields(R& strategy, Visitor&& field) {
  field("name", strategy.name,
        "fedavg: the mean by examples; fedprox: and sites stay near the global model; fedadam, fedyogi, "
        "fedadagrad: the mean as a gradient of an adaptive optimizer; scaffold: the mean, and sites correct "
        "their gradients for how their data differs; fedbuff: asynchronous, each site trains as fast as it "
        "can, and quorum, gather_seconds and deadline_seconds say nothing; median, trimmed_mean, norm_bound: "
        "whatever a few sites send",
        one_of({"fedavg", "fedprox", "fedadam", "fedyogi", "fedadagrad", "scaffold", "fedbuff", "median",
                "trimmed_mean", "norm_bound"}));
  field("server_rate", strategy.server_rate,
        "By how much of the mean update the global model moves; 0: the strategy's own", between(0, 100));
  field("schedule", strategy.schedule, "How server_rate goes over the rounds, linear and cosine towards 0",
        one_of({"constant", "linear", "cosine"}));
  field("beta1", strategy.beta1, "fedadam, fedyogi: decay of the mean of updates", between(0, 0.9999));
  field("beta2", strategy.beta2, "fedadam, fedyogi: decay of the mean of their squares",
        between(0, 0.999999));
  field("adaptivity", strategy.adaptivity, "fedadam, fedyogi, fedadagrad: added to the root of those squares",
        between(1e-12, 100));
  field("proximal", strategy.proximal,
        "fedprox: weight of half the squared distance from the global model in a site's loss",
        between(0, 1e3));
  field("trimmed", strategy.trimmed, "trimmed_mean: share of the updates cut off at either end",
        between(0, 0.499));
  field("norm_bound", strategy.norm_bound, "norm_bound: Euclidean norm to which longer updates are shortened",
        at_least(0));
  field("buffer", strategy.buffer, "fedbuff: updates that make a round, whichever sites send them",
        between(1, 1e5));
  field(
      "max_staleness", strategy.max_staleness,
      "fedbuff: rounds that may have ended since a site was given the model that it trained, which count its "
      "update the less, by 1 / sqrt(1 + rounds); later it does not count",
      between(0, 1e6));
}

template <Either<SharingTable> R, class Visitor>
void fields(R& sharing, Visitor&& field) {
  field("private", sharing.kept_private,
        "Parameters that each site keeps to itself: patterns of names, * for any characters, and [0,4-7] at "
        "the end "
        "for those experts with their rows of the router, where all are of one kind: \"*.moe.*[3]\"",
        not_empty());
  field("by_tokens", sharing.by_tokens,
        "Parameters of experts, all of one kind, to average by the tokens that each expert served at a site, "
        "which sites then tell: "
        "\"*.moe.experts.*\"",
        not_empty());
}

template <Either<SecureAggregationTable> R, class Visitor>
void fields(R& secure, Visitor&& field) {
  field("enabled", secure.enabled,
        "Whether the coordinator learns the mean of a round's updates, and no site's own; of at least 3 "
        "sites, and two thirds of those that take part",
        Rule{});
  field("weights", secure.weights,
        "How sites count in that mean: all the same, or by their examples, of which the coordinator then "
        "learns "
        "the sum alone",
        one_of({"equal", "examples"}));
  field("most_examples", secure.most_examples, "weights by examples: as how many a site counts at most",
        between(0, 1e12));
  field("clip_norm", secure.clip_norm, "Euclidean norm to which sites shorten longer updates",
        between(1e-6, 1e6));
  field("bits", secure.bits,
        "Of each number as it is sent: 16, 24, ... 64; the finer the steps, the more sites can be summed",
        between(16, 64));
  field("phase_seconds", secure.phase_seconds,
        "How long each of the exchange's five phases waits for sites that took part in the last one; sending "
        "the "
        "update is one",
        between(0.1, 1e6));
}

template <Either<FederationPrivacyTable> R, class Visitor>
void fields(R& privacy, Visitor&& field) {
  field("unit", privacy.unit,
        "Whose part the models must not tell, by noise of which each site adds a share to its masked update: "
        "nobody's (none), a site's, or a record's, where a round is a step of DP-SGD over all sites' "
        "records, or a "
        "client's, of whose records data.client_column tells, likewise",
        one_of({"none", "site", "record", "client"}));
  field("clip_norm", privacy.clip_norm,
        "record, client: largest norm of an example's gradient, which is scaled down to it; for sites, "
        "secure_aggregation.clip_norm is that of their updates",
        between(1e-9, 1e6));
  field("rate", privacy.rate,
        "record, client: the probability with which each takes part in a round, by itself", between(1e-9, 1));
  field(
      "noise_multiplier", privacy.noise_multiplier,
      "Standard deviation of the noise on a round's sum, per clip_norm; 0: as little as all rounds together "
      "may have for epsilon",
      between(0, 1e6));
  field("epsilon", privacy.epsilon, "The budget of all rounds; 0: none", between(0, 1e6));
  field("delta", privacy.delta, "The probability that epsilon may not hold with", between(1e-15, 0.1));
}

template <Either<SiteTable> R, class Visitor>
void fields(R& site, Visitor&& field) {
  field("kit", site.kit, "Folder of the start-up kit; empty for the one this file is in", any_text());
  field("address", site.address, "host:port of the coordinator", not_empty());
  field("directory", site.directory, "Folder for the global model and this site's updates", not_empty());
  field("patience_seconds", site.patience_seconds,
        "How long to try to reach the coordinator before giving up; 0: for ever", at_least(0));
  field("secure_only", site.secure_only,
        "Whether to refuse a federation without secure aggregation, whose coordinator reads the updates",
        Rule{});
  field("least_sites", site.least_sites,
        "By secure aggregation: of how many sites' updates a sum must be, at least, for this site's to be in "
        "it; the coordinator might ask for smaller ones",
        at_least(3));
  field("validate_every", site.validate_every,
        "Rounds between those whose model is measured on this site's validation split, which the coordinator "
        "is told, without noise; 0: none is",
        between(0, 1e6));
}

template <Either<SiteSharingTable> R, class Visitor>
void fields(R& sharing, Visitor&& field) {
  field("private", sharing.kept_private,
        "Parameters that never leave this site, by patterns as the federation's: it takes no part where the "
        "coordinator asks for one of them",
        not_empty());
}

template <Either<SimulationTable> R, class Visitor>
void fields(R& simulation, Visitor&& field) {
  field("recipe", simulation.recipe,
        "Recipe of the model, its data, and its memory; train.learning_rate and the like are not read",
        not_empty());
  field("directory", simulation.directory, "Folder for checkpoints", not_empty());
  field("clients", simulation.clients, "Clients that the training examples are divided among",
        between(1, 1e7));
  field("parts_by", simulation.parts_by, "How: as data.parts_by", one_of({"random", "label", "dirichlet"}));
  field("parts_alpha", simulation.parts_alpha, "As data.parts_alpha", between(1e-3, 1e6));
  field("parts_seed", simulation.parts_seed, "As data.parts_seed", at_least(0));
  field(
      "cohort", simulation.cohort,
      "Clients in a round, drawn anew for each; with privacy on average, each being drawn by itself; 0: all",
      between(0, 1e7));
  field("rounds", simulation.rounds, "Times that clients' updates are made the next global model",
        between(1, 1e6));
  field("local_steps", simulation.local_steps,
        "Steps that a client takes in a round; 0: as local_epochs says", between(0, 1e6));
  field("local_epochs", simulation.local_epochs, "Times that a client goes through its examples in a round",
        between(1, 1e4));
  field("local_batch", simulation.local_batch, "A client's examples in one of its steps; 0: all it has",
        between(0, 1e6));
  field("client_rate", simulation.client_rate, "Learning rate of a client's steps, which are plain SGD",
        between(1e-9, 1e3));
  field("evaluate_every", simulation.evaluate_every, "Rounds between validations; 0: none", between(0, 1e6));
  field("keep", simulation.keep, "Checkpoints that stay, 0 for all", between(0, 1e6));
}

template <Either<ClientPrivacyTable> R, class Visitor>
void fields(R& privacy, Visitor&& field) {
  field("clip_norm", privacy.clip_norm,
        "Largest norm of a client's update, which is scaled down to it; where adaptive, that of the first "
        "round",
        between(1e-9, 1e9));
  field("noise_multiplier", privacy.noise_multiplier,
        "Standard deviation of the noise on the sum of updates, per clip_norm; 0: as little as all rounds "
        "together may have for epsilon",
        between(0, 1e6));
  field("epsilon", privacy.epsilon,
        "The budget; the simulation stops before a round that would exceed it; 0: none", between(0, 1e6));
  field("delta", privacy.delta, "The probability that epsilon may not hold with", between(1e-15, 0.1));
  field("adaptive", privacy.adaptive, "Whether clip_norm follows a quantile of the updates' norms", Rule{});
  field("quantile", privacy.quantile, "adaptive: the share of updates that are not to be clipped",
        between(0.01, 0.99));
  field("clip_rate", privacy.clip_rate, "adaptive: how fast clip_norm follows", between(1e-4, 10));
  field("count_noise", privacy.count_noise,
        "adaptive: standard deviation of the noise on how many are not clipped, a part of the privacy that "
        "noise_multiplier is; 0: a twentieth of the cohort",
        between(0, 1e6));
}

template <Either<SimulationSettings> R, class Visitor>
void tables(R& settings, Visitor&& table) {
  table("simulation", settings.simulation, "Clients, and what each of them does");
  table("strategy", settings.strategy, "How updates become the next global model");
  table("client_privacy", settings.client_privacy,
        "What the model may tell of each client; on where there is noise, or a budget");
}

template <Either<FederationSettings> R, class Visitor>
void tables(R& settings, Visitor&& table) {
  table("federation", settings.federation, "Who trains what together");
  table("strategy", settings.strategy, "How updates become the next global model");
  table("sharing", settings.sharing, "What of the model is not simply everybody's");
  table("secure_aggregation", settings.secure_aggregation, "How much of the updates the coordinator sees");
  table("privacy", settings.privacy, "What the models tell of sites, or of their records");
}

template <Either<SiteSettings> R, class Visitor>
void tables(R& settings, Visitor&& table) {
  table("site", settings.site, "This site's way to the coordinator");
  table("run", settings.run, "How this site's machines are used");
  table("data", settings.data, "This site's examples");
  table("privacy", settings.privacy,
        "The privacy of this site's records, where it is not as the federation's");
  table("sharing", settings.sharing, "What of the model this site gives to nobody");
  table("parallel", settings.parallel, "How the work is divided among this site's ranks");
}

}  // namespace conclave::recipe_fields
