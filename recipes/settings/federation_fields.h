// The tables of federation.toml, site.toml and simulation.toml, as recipe_fields.h has those of recipes.
#pragma once

#include "recipes/settings/federation.h"
#include "recipes/settings/settings_tables.h"

namespace conclave::settings {

Tables tables_of(FederationSettings& settings);
Tables tables_of(SiteSettings& settings);
Tables tables_of(SimulationSettings& settings);

}  // namespace conclave::settings
