// What a recipe's [data] section stands for: the texts, the tokenizer trained on the train split, and the
// three splits as token sequences.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/tokenizer.h"
#include "parallel/communicator.h"
#include "recipes/recipe.h"

namespace conclave {

struct Corpus {
  std::vector<std::string> class_names;
  Tokenizer tokenizer;
  TokenizedSplit train, validation, test;
};

/// Reads the texts only.
TextDataset read_texts(const DataRecipe& recipe);

/// Collective. Without `tokenizer`, rank 0 trains one (or finds it in `cache_directory`) and all ranks take
/// it.
Corpus load_corpus(const DataRecipe& recipe, Communicator& world, const std::string& cache_directory,
                   std::optional<Tokenizer> tokenizer = std::nullopt);

}  // namespace conclave
