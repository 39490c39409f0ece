// Every field of federation.toml and site.toml, once; see recipe_fields.h.
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
  field("sites", federation.sites, "Names of the sites that may take part", not_empty());
  field("certificate_days", federation.certificate_days, "How long certificates hold", between(1, 3650));
  field("rounds", federation.rounds, "Times that the sites' updates are made the next global model",
        between(1, 1e6));
  field("local_steps", federation.local_steps, "Steps of training that each site takes in a round",
        between(1, 1e6));
  field("quorum", federation.quorum, "Updates without which a round does not end; 0: those of all sites",
        between(0, 1e5));
  field("gather_seconds", federation.gather_seconds,
        "How long a round waits at least, so that every site that is there takes part", between(0, 1e6));
  field("deadline_seconds", federation.deadline_seconds,
        "After how long a round no longer waits for sites that have begun it, once there is a quorum",
        between(0, 1e7));
  field("keep", federation.keep, "Checkpoints that stay, 0 for all", between(0, 1e6));
}

template <Either<SiteTable> R, class Visitor>
void fields(R& site, Visitor&& field) {
  field("kit", site.kit, "Folder of the start-up kit; empty for the one this file is in", any_text());
  field("address", site.address, "host:port of the coordinator", not_empty());
  field("directory", site.directory, "Folder for the global model and this site's updates", not_empty());
  field("patience_seconds", site.patience_seconds,
        "How long to try to reach the coordinator before giving up; 0: for ever", at_least(0));
}

template <Either<FederationSettings> R, class Visitor>
void tables(R& settings, Visitor&& table) {
  table("federation", settings.federation, "Who trains what together");
}

template <Either<SiteSettings> R, class Visitor>
void tables(R& settings, Visitor&& table) {
  table("site", settings.site, "This site's way to the coordinator");
  table("run", settings.run, "How this site's machines are used");
  table("data", settings.data, "This site's examples");
  table("parallel", settings.parallel, "How the work is divided among this site's ranks");
}

}  // namespace conclave::recipe_fields
