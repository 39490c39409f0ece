// The tables of a recipe, with the fields of each: what it means, its unit and its limits. The one list that
// the reader, the checks, `conclave recipe show` and error messages use.
#pragma once

#include "recipes/settings/recipe.h"
#include "recipes/settings/settings_tables.h"

namespace conclave::settings {

Tables tables_of(Recipe& recipe);

// The tables that a site's settings have, too.
void fields(RunRecipe& run, FieldList& field);
void fields(DataRecipe& data, FieldList& field);
void fields(PrivacyRecipe& privacy, FieldList& field);
void fields(ParallelRecipe& parallel, FieldList& field);

}  // namespace conclave::settings
