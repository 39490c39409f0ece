// The data that a recipe's [data] section describes: the examples, the tokenizer trained on the train split's
// texts, and the three splits as token sequences and images.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/dataset.h"
#include "data/tokenizer.h"
#include "parallel/communicator.h"
#include "recipes/models/model_sizes.h"
#include "recipes/settings/recipe.h"

namespace conclave {

/// The examples that one task is trained and evaluated on.
struct TaskSplits {
  TokenizedSplit train, validation, test;
};

struct Corpus {
  std::vector<std::string> class_names;
  std::optional<Tokenizer> tokenizer;  ///< none where there are no texts
  std::vector<TaskSplits> tasks;       ///< in the order of the recipe's [tasks]

  /// The sizes of a model for these examples.
  ModelSizes sizes(const DataRecipe& recipe) const;
};

/// Throws Error, which names the first difference, unless the data has the classes of the model in
/// `checkpoint`, in the same order: labels are class numbers.
void expect_same_classes(const std::string& checkpoint, const std::vector<std::string>& of_model,
                         const std::vector<std::string>& of_data);

/// The classes of a model, in order, and its name for messages.
struct ModelClasses {
  std::vector<std::string> names = {};
  std::string model = {};
};

/// Numbers labels as the model does. The data may lack some of its classes. Throws Error if it has others.
void number_labels(ImageDataset& data, const ModelClasses& classes);

/// Collective. Reads texts and images, without tokens. `captions`: reads what images show even if the
/// examples have no texts. Rank 0 warns of examples left out as bad, and of what may be a mistake in the
/// data. Throws Error, on every rank, if the ranks did not read the same.
ImageDataset read_examples(const DataRecipe& data, const ImageRecipe& image, Communicator& world,
                           bool captions);
/// The examples of a split that `task` uses. To classify: all, unchanged. To caption or generate: those with
/// an image, once for each caption, with the caption (or, without one, the class's name) as text.
ImageSplit examples_for(TaskKind task, ImageSplit split, const std::vector<std::string>& class_names);
/// Tokenizes examples for `task`. A task that reads images alone gets no texts.
TokenizedSplit tokenize(TaskKind task, ImageSplit split, const std::optional<Tokenizer>& tokenizer,
                        const DataRecipe& data);

/// Collective. If a task has texts and there is no `tokenizer`, rank 0 trains one (or finds it in
/// `cache_directory`) and sends it to all ranks. With `classes`, their names are the corpus's; else the
/// data's.
Corpus load_corpus(const Recipe& recipe, Communicator& world, const std::string& cache_directory,
                   std::optional<Tokenizer> tokenizer = std::nullopt,
                   const std::optional<ModelClasses>& classes = std::nullopt);

}  // namespace conclave
