// Every field of federation.toml, site.toml and simulation.toml, once; see recipe_fields.cpp.
#include "recipes/settings/federation_fields.h"

#include "recipes/settings/recipe_fields.h"

namespace conclave::settings {

void fields(FederationTable& federation, FieldList& field) {
  field("name", federation.name, "What the federation is called in certificates", not_empty());
  field("directory", federation.directory,
        "Folder for the global model's checkpoints and for the state from which a restarted coordinator "
        "continues",
        not_empty());
  field("kits", federation.kits,
        "Folder for start-up kits: one for the authority, one for the coordinator, and one for each site, "
        "which gets it",
        not_empty());
  field("address", federation.address, "host:port where sites reach the coordinator", not_empty());
  field("listen", federation.listen,
        "host:port where the coordinator listens; empty for all interfaces at the port of address",
        any_text());
  field("start", federation.start,
        "Checkpoint that the first round starts from; its recipe, tokenizer and classes are used by the "
        "whole federation; `conclave federate initialize` makes one",
        any_text());
  field("sites", federation.sites,
        "Names of the sites, each of which gets a start-up kit. The coordinator admits the sites in "
        "sites.txt of its own kit; a site that is no longer named here stays admitted until `conclave "
        "federate provision --revoke` removes it",
        not_empty());
  field("plugins", federation.plugins,
        "Shared libraries with your own strategies; relative paths are looked up beside this file, "
        "then "
        "in the working directory",
        not_empty());
  field("certificate_days", federation.certificate_days, "Days for which certificates are valid",
        between(1, 3650));
  field("rounds", federation.rounds,
        "Number of rounds; each turns the sites' updates into the next global model", between(1, 1e6));
  field("local_steps", federation.local_steps, "Steps of training that each site takes in a round",
        between(1, 1e6));
  field("quorum", federation.quorum, "Number of updates that a round needs to end; 0: those of all sites",
        between(0, 1e5));
  field(
      "gather_seconds", federation.gather_seconds,
      "Seconds that a round waits for sites that have not begun it, unless all admitted sites have delivered",
      between(0, 1e6));
  field("deadline_seconds", federation.deadline_seconds,
        "Seconds after which a round that has its quorum no longer waits for sites that have begun it",
        between(0, 1e7));
  field("keep", federation.keep, "Checkpoints that stay, 0 for all", between(0, 1e6));
}

void fields(StrategyTable& strategy, FieldList& field) {
  field("name", strategy.options.name,
        "fedavg: the mean of updates, weighted by examples; fedprox: as fedavg, and sites stay near the "
        "global model; fedadam, fedyogi, fedadagrad: the mean is the gradient of an adaptive optimizer; "
        "scaffold: the mean, in which all sites count equally, and sites correct their gradients for how "
        "their data differs; fedbuff: asynchronous, each site trains as fast as it can, and quorum, "
        "gather_seconds and deadline_seconds are not read; median, trimmed_mean, norm_bound: limit the "
        "effect of a few wrong or hostile updates; or a plug-in's",
        not_empty());  // a kind may be a plug-in's, see load_plugins()
  field("options", strategy.own,
        "Options that a plug-in's strategy reads, NAME=VALUE each; it refuses others", named_values());
  field("server_rate", strategy.options.server_rate,
        "Factor on the mean update by which the global model moves; 0: the strategy's default",
        between(0, 100));
  field("schedule", strategy.schedule,
        "How server_rate changes over the rounds; linear and cosine fall towards 0",
        one_of({"constant", "linear", "cosine"}));
  field("beta1", strategy.options.beta1, "fedadam, fedyogi: decay of the mean of updates",
        between(0, 0.9999));
  field("beta2", strategy.options.beta2, "fedadam, fedyogi: decay of the mean of squared updates",
        between(0, 0.999999));
  field(
      "adaptivity", strategy.options.adaptivity,
      "fedadam, fedyogi, fedadagrad: added to the root of the mean (fedadagrad: the sum) of squared updates",
      between(1e-12, 100));
  field("proximal", strategy.options.proximal,
        "fedprox: weight of half the squared distance from the global model in a site's loss",
        between(0, 1e3));
  field("trimmed", strategy.options.trimmed, "trimmed_mean: share of the updates left out at either end",
        between(0, 0.499));
  field("norm_bound", strategy.options.norm_bound,
        "norm_bound: Euclidean norm to which longer updates are shortened", at_least(0));
  field("buffer", strategy.options.buffer, "fedbuff: number of updates in a round, from whichever sites",
        between(1, 1e5));
  field("max_staleness", strategy.max_staleness,
        "fedbuff: most rounds that may have ended since a site got the model that it trained. An older "
        "update does not count; the weights of others are multiplied by 1 / sqrt(1 + rounds)",
        between(0, 1e6));
}

void fields(SharingTable& sharing, FieldList& field) {
  field("private", sharing.kept_private,
        "Parameters that each site keeps to itself: patterns of names, with * for any characters. [0,4-7] at "
        "the end means only these experts and their rows of the router, if all experts are of one kind: "
        "[\"*.moe.*[3]\"]",
        not_empty());
  field("by_tokens", sharing.by_tokens,
        "Parameters of experts, all of one kind, that are averaged by the tokens that each expert served at "
        "a site, which sites then report: [\"*.moe.experts.*\"]",
        not_empty());
}

void fields(SecureAggregationTable& secure, FieldList& field) {
  field("enabled", secure.enabled,
        "Whether the coordinator learns only the mean of a round's updates, and no site's own update; needs "
        "at least 3 sites, and two thirds of those that take part",
        Rule{});
  field("weights", secure.weights,
        "Weights of sites in the mean: equal, or by their examples, of which the coordinator then learns "
        "only the sum",
        one_of({"equal", "examples"}));
  field("most_examples", secure.most_examples,
        "With weights by examples: the most examples that a site counts as", between(0, 1e12));
  field("clip_norm", secure.clip_norm, "Euclidean norm to which sites scale down longer updates",
        between(1e-6, 1e6));
  field("bits", secure.bits,
        "Bits of each number that is sent: 16, 24, ... 64; more bits allow finer steps and more sites",
        between(16, 64));
  field("phase_seconds", secure.phase_seconds,
        "Seconds that each of the exchange's five phases (sending the update is one) waits for sites that "
        "took part in the phase before",
        between(0.1, 1e6));
}

void fields(FederationPrivacyTable& privacy, FieldList& field) {
  field("unit", privacy.unit,
        "Unit of differential privacy; each site adds a share of the noise to its masked update. none: off; "
        "site: each site; record: each record, where a round is a step of DP-SGD over all sites' records; "
        "client: all records of a site with the same value in data.client_column, where a round is such a "
        "step over all sites' clients",
        one_of({"none", "site", "record", "client"}));
  field("clip_norm", privacy.clip_norm,
        "record, client: largest norm of an example's gradient; a longer one is scaled down to it. For unit "
        "site, secure_aggregation.clip_norm limits the norm of updates",
        between(1e-9, 1e6));
  field("rate", privacy.rate,
        "record, client: probability with which each takes part in a round, independently", between(1e-9, 1));
  field("noise_multiplier", privacy.noise_multiplier,
        "Standard deviation of the noise on a round's sum, divided by clip_norm; 0: the least noise with "
        "which all rounds keep within epsilon",
        between(0, 1e6));
  field("epsilon", privacy.epsilon, "Privacy budget of all rounds; 0: none", between(0, 1e6));
  field("delta", privacy.delta, "Probability with which epsilon may not hold", between(1e-15, 0.1));
}

void fields(SiteTable& site, FieldList& field) {
  field("kit", site.kit, "Folder of the start-up kit; empty for the one this file is in", any_text());
  field("address", site.address, "host:port of the coordinator", not_empty());
  field("directory", site.directory,
        "Folder for the global model and this site's updates. Like run.directory and privacy.ledger, it is "
        "relative to this file's folder, or to the working directory in a --set",
        not_empty());
  field("patience_seconds", site.patience_seconds,
        "Seconds to try to reach the coordinator before giving up; 0: forever", at_least(0));
  field("secure_only", site.secure_only,
        "Whether to refuse a federation without secure aggregation, whose coordinator reads the updates",
        Rule{});
  field("least_sites", site.least_sites,
        "With secure aggregation: the least number of sites in a sum that this site's update is part of, "
        "because the coordinator might ask for sums of fewer",
        at_least(3));
  field("validate_every", site.validate_every,
        "Rounds between evaluations of the model on this site's validation split, which the coordinator is "
        "told without noise; 0, or with privacy: no evaluations",
        between(0, 1e6));
}

void fields(SiteSharingTable& sharing, FieldList& field) {
  field("private", sharing.kept_private,
        "Parameters that never leave this site, by patterns as in the federation's; if the coordinator asks "
        "for one of them, the site takes no part",
        not_empty());
}

void fields(SimulationTable& simulation, FieldList& field) {
  field("recipe", simulation.recipe,
        "Recipe of the model, its data, and its memory; settings of the optimizer, such as "
        "train.learning_rate, are not read",
        not_empty());
  field("directory", simulation.directory, "Folder for checkpoints", not_empty());
  field("plugins", simulation.plugins,
        "Shared libraries with your own strategies; relative paths are looked up beside this file, "
        "then "
        "in the working directory",
        not_empty());
  field("clients", simulation.clients, "Clients that the training examples are divided among",
        between(1, 1e7));
  field("parts_by", simulation.parts_by, "How examples are divided among clients, as data.parts_by",
        one_of({"random", "label", "dirichlet"}));
  field("parts_alpha", simulation.parts_alpha, "As data.parts_alpha", between(1e-3, 1e6));
  field("parts_seed", simulation.parts_seed, "As data.parts_seed", at_least(0));
  field("cohort", simulation.cohort,
        "Clients in a round, drawn anew for each round; with privacy, the average number, because each "
        "client is drawn independently; 0: all",
        between(0, 1e7));
  field("rounds", simulation.rounds,
        "Number of rounds; each turns the clients' updates into the next global model", between(1, 1e6));
  field("local_steps", simulation.local_steps,
        "Steps of a client in a round; 0: as many as local_epochs needs", between(0, 1e6));
  field("local_epochs", simulation.local_epochs,
        "Passes of a client over its examples in a round, if local_steps is 0", between(1, 1e4));
  field("local_batch", simulation.local_batch, "Examples in a client's step; 0: all that it has",
        between(0, 1e6));
  field("client_rate", simulation.client_rate, "Learning rate of a client's steps, which are plain SGD",
        between(1e-9, 1e3));
  field("evaluate_every", simulation.evaluate_every, "Rounds between validations; 0: none", between(0, 1e6));
  field("keep", simulation.keep, "Checkpoints that stay, 0 for all", between(0, 1e6));
}

void fields(ClientPrivacyTable& privacy, FieldList& field) {
  field("clip_norm", privacy.clip_norm,
        "Largest norm of a client's update; a longer one is scaled down to it. If adaptive, this is the norm "
        "of the first round",
        between(1e-9, 1e9));
  field("noise_multiplier", privacy.noise_multiplier,
        "Standard deviation of the noise on the sum of updates, divided by clip_norm; 0: the least noise "
        "with which all rounds keep within epsilon",
        between(0, 1e6));
  field("epsilon", privacy.epsilon,
        "Privacy budget; the simulation stops before a round that would exceed it; 0: none", between(0, 1e6));
  field("delta", privacy.delta, "Probability with which epsilon may not hold", between(1e-15, 0.1));
  field("adaptive", privacy.adaptive, "Whether clip_norm follows a quantile of the updates' norms", Rule{});
  field("quantile", privacy.quantile, "adaptive: share of updates that clip_norm should not shorten",
        between(0.01, 0.99));
  field("clip_rate", privacy.clip_rate, "adaptive: how fast clip_norm follows", between(1e-4, 10));
  field("count_noise", privacy.count_noise,
        "adaptive: standard deviation of the noise on the number of updates that are not clipped, which "
        "takes a part of the privacy that noise_multiplier gives; 0: a twentieth of the cohort",
        between(0, 1e6));
}

Tables tables_of(SimulationSettings& settings) {
  TableList table;
  table("simulation", settings.simulation, "Clients, and what each of them does");
  table("strategy", settings.strategy, "How updates become the next global model");
  table("client_privacy", settings.client_privacy,
        "Differential privacy of each client; on if there is noise, or a budget");
  return std::move(table).take();
}

Tables tables_of(FederationSettings& settings) {
  TableList table;
  table("federation", settings.federation, "Who trains what together");
  table("strategy", settings.strategy, "How updates become the next global model");
  table("sharing", settings.sharing, "Parameters that sites do not simply share");
  table("secure_aggregation", settings.secure_aggregation, "What the coordinator sees of the updates");
  table("privacy", settings.privacy, "Differential privacy of sites, records or clients");
  return std::move(table).take();
}

Tables tables_of(SiteSettings& settings) {
  TableList table;
  table("site", settings.site, "This site's connection to the coordinator");
  table("run", settings.run, "How this site's machines are used");
  table("data", settings.data, "This site's examples");
  table("privacy", settings.privacy,
        "The privacy of this site's records, where it differs from the federation's");
  table("sharing", settings.sharing, "Parameters that this site sends to nobody");
  table("parallel", settings.parallel, "How the work is divided among this site's ranks");
  return std::move(table).take();
}

}  // namespace conclave::settings
