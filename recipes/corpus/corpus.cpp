#include "recipes/corpus/corpus.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

#include "core/print_line.h"
#include "core/text_line.h"
#include "core/xxh3.h"
#include "data/bad_inputs.h"
#include "data/parts.h"
#include "recipes/settings/data_sources.h"
#include "recipes/settings/recipe_text.h"

namespace conclave {

namespace {

constexpr std::size_t kLongestWarning = 1000;  // code points; a warning may contain long names from the data

ImageDataset read_source(const DataRecipe& data, const ImageRecipe& image, bool captions, BadInputs& bad) {
  ImageDataset read =
      data_source(data.source).read({.data = data, .side = image.size, .captions = captions}, bad);
  for (ImageSplit* split : {&read.train, &read.validation, &read.test}) {
    if (!data.has_images()) split->images = {};
    if (!data.has_texts())
      for (TextExample& example : split->examples) example.text.clear();
  }
  return read;
}

// XXH3-64 of all that a model learns from.
std::uint64_t digest_of(const ImageSplit& split) {
  Xxh3 hash;
  const auto add = [&](const auto& values) {
    hash.add(
        {reinterpret_cast<const char*>(std::data(values)), std::size(values) * sizeof(*std::data(values))});
  };
  for (const TextExample& example : split.examples) {
    add(std::array<std::int64_t, 8>{std::ssize(example.text), std::ssize(example.pair),
                                    std::ssize(example.captions), example.label, example.in_domain,
                                    example.client, example.score.has_value(),
                                    std::bit_cast<std::int64_t>(example.score.value_or(0))});
    add(example.text);
    add(example.pair);
    for (const std::string& caption : example.captions) {
      add(std::array{caption.size()});
      add(caption);
    }
  }
  const ImageShape& shape = split.images.shape;
  add(std::array{shape.height, shape.width, shape.channels});
  add(split.images.rows);
  add(split.images.pixels);
  return hash.checksum();
}

// A part of the data, as ranks compare it.
struct ComparedPart {
  std::string name, unit;
  std::size_t count;
  std::uint64_t digest;
};

// Throws the same Error on every rank if their data is not the same: ranks divide a batch by the numbers of
// its examples, which each looks up in its own data. `bad`, `first_bad`: what this rank left out.
void expect_same_data(const ImageDataset& read, std::size_t bad, const std::string& first_bad,
                      Communicator& world) {
  if (world.size() == 1) return;
  Xxh3 names;
  for (const std::string& name : read.class_names) names.add(name + '\0');
  const auto split = [](const char* name, const ImageSplit& of) {
    return ComparedPart{fmt::format("the {} split", name), "examples", of.examples.size(), digest_of(of)};
  };
  const std::vector<ComparedPart> parts{
      {"what is left out as bad", "rows or images", bad, 0},
      {"the names of classes", "names", read.class_names.size(), names.checksum()},
      split("training", read.train),
      split("validation", read.validation),
      split("test", read.test)};
  Tensor mine = Tensor::zeros({1, 2 * std::ssize(parts)}, DType::i64);
  for (std::size_t p = 0; p < parts.size(); ++p) {
    mine.span<std::int64_t>()[2 * p] = static_cast<std::int64_t>(parts[p].count);
    mine.span<std::int64_t>()[2 * p + 1] = static_cast<std::int64_t>(parts[p].digest);
  }
  const Tensor all = Tensor::zeros({world.size(), 2 * std::ssize(parts)}, DType::i64);
  world.all_gather(mine, all);
  const auto of_rank = [&](std::size_t rank) {
    return all.span<std::int64_t>().subspan(rank * 2 * parts.size(), 2 * parts.size());
  };
  const auto first = of_rank(0);
  std::size_t other = 1;
  while (other < static_cast<std::size_t>(world.size()) && std::ranges::equal(of_rank(other), first)) ++other;
  if (other == static_cast<std::size_t>(world.size())) return;
  std::vector<std::string> differences;
  for (std::size_t p = 0; p < parts.size(); ++p) {
    const auto is = of_rank(other).subspan(2 * p, 2), there = first.subspan(2 * p, 2);
    if (std::ranges::equal(is, there)) continue;
    differences.push_back(fmt::format("{} ({} {}, {})", parts[p].name, is[0], parts[p].unit,
                                      is[0] == there[0] ? "as many there, but others or in another order"
                                                        : fmt::format("{} there", there[0])));
  }
  const std::vector<std::string> left_out = world.all_gather(first_bad);
  std::string bad_rows;
  for (const std::size_t rank : {other, std::size_t{0}})
    if (!left_out[rank].empty())
      bad_rows += fmt::format("; the first left out on rank {}: {}", rank, left_out[rank]);
  fail("rank {} has other data than rank 0: {}{}; give every rank the same files", other,
       fmt::join(differences, ", "), bad_rows);
}

}  // namespace

ImageDataset read_examples(const DataRecipe& data, const ImageRecipe& image, Communicator& world,
                           bool captions) {
  BadInputs bad(data.skip_bad);
  ImageDataset read = read_source(data, image, captions, bad);
  const auto tell = [&](std::string_view warning) {
    if (world.rank() == 0) warn(one_line(warning, kLongestWarning));
  };
  for (const std::string& warning : bad.warnings()) tell(warning);
  if (data.parts > 1)
    keep_part(read,
              {.parts = data.parts,
               .by = data.parts_by,
               .alpha = data.parts_alpha,
               .seed = static_cast<std::uint64_t>(data.parts_seed)},
              data.part);
  expect_same_data(read, static_cast<std::size_t>(bad.count()), bad.count() > 0 ? bad.first() : "", world);
  if (bad.count() > 0)
    tell(fmt::format("{} left out that cannot be read; the first: {}", bad.count(), bad.first()));
  return read;
}

ImageSplit examples_for(TaskKind task, ImageSplit split, const std::vector<std::string>& class_names) {
  if (!traits_of(task).captions) return split;
  ImageSplit shown{{}, {split.images.shape, std::move(split.images.pixels), {}}};
  for (std::size_t i = 0; i < split.examples.size(); ++i) {
    const TextExample& example = split.examples[i];
    const std::int32_t row = split.images.rows.empty() ? -1 : split.images.rows[i];
    if (row < 0) continue;
    const auto add = [&](const std::string& text) {
      shown.examples.push_back({.text = text, .label = example.label});
      shown.images.rows.push_back(row);
    };
    if (example.captions.empty()) add(class_names[static_cast<std::size_t>(example.label)]);
    for (const std::string& caption : example.captions) add(caption);
  }
  return shown;
}

TokenizedSplit tokenize(TaskKind task, ImageSplit split, const std::optional<Tokenizer>& tokenizer,
                        const DataRecipe& data) {
  if (!traits_of(task).captions && !data.has_texts()) return without_texts(std::move(split));
  if (split.images.size() == 0) return tokenizer->encode_split(split.examples, data.max_length);
  return tokenizer->encode_split(std::move(split), data.max_length);
}

ModelSizes Corpus::sizes(const DataRecipe& recipe) const {
  return model_sizes(recipe, class_names.size(), tokenizer, tasks.front().train.images.shape);
}

void expect_same_classes(const std::string& checkpoint, const std::vector<std::string>& of_model,
                         const std::vector<std::string>& of_data) {
  const auto [one, other] = std::ranges::mismatch(of_model, of_data);
  const auto name = [](const std::vector<std::string>& classes, auto at) {
    return at == classes.end() ? std::string("none") : fmt::format("\"{}\"", recipe_text::readable(*at));
  };
  require(one == of_model.end() && other == of_data.end(),
          "{}: the model has {} classes, and the data has {}; class {} is {} in the model and {} in the "
          "data: give data with the same classes in the same order",
          checkpoint, of_model.size(), of_data.size(), one - of_model.begin(), name(of_model, one),
          name(of_data, other));
}

void number_labels(ImageDataset& data, const ModelClasses& classes) {
  if (data.class_names == classes.names) return;
  std::vector<std::int32_t> number;
  for (const std::string& name : data.class_names) {
    const auto found = std::ranges::find(classes.names, name);
    if (found == classes.names.end()) {
      std::vector<std::string> known;
      std::ranges::transform(classes.names, std::back_inserter(known), recipe_text::readable);
      fail("{}: the data has a class \"{}\", but the model was trained on: {}", classes.model,
           recipe_text::readable(name), some_of(known));
    }
    number.push_back(static_cast<std::int32_t>(found - classes.names.begin()));
  }
  for (ImageSplit* split : {&data.train, &data.validation, &data.test})
    for (TextExample& example : split->examples)
      example.label = number[static_cast<std::size_t>(example.label)];
  data.class_names = classes.names;
}

Corpus load_corpus(const Recipe& recipe, Communicator& world, const std::string& cache_directory,
                   std::optional<Tokenizer> tokenizer, const std::optional<ModelClasses>& classes) {
  const DataRecipe& data = recipe.data;
  ImageDataset read = read_examples(data, recipe.image, world, recipe.tasks.read_captions());
  if (classes) number_labels(read, *classes);
  const bool in_domain = std::ranges::any_of(read.train.examples, &TextExample::in_domain);
  require(in_domain || data.domain_name().empty(),
          "data.{} = \"{}\": no training text belongs to this domain", data.domain_key(), data.domain_name());
  std::vector<std::pair<TaskKind, ImageDataset>> tasks;
  const std::vector<TaskKind> trained = recipe.tasks.trained();
  for (const TaskKind task : trained) {
    // The last task, mostly the only one, takes the data itself; the others take copies.
    const auto take = [&](ImageSplit& split) {
      return examples_for(task, task == trained.back() ? std::move(split) : split, read.class_names);
    };
    tasks.push_back({task, {{}, take(read.train), take(read.validation), take(read.test)}});
  }
  if (!tokenizer && recipe.has_texts()) {
    tokenizer = Tokenizer::from_bytes(from_first(world, [&] {
      std::vector<TextExample> texts;
      for (const auto& [task, examples] : tasks)
        std::ranges::copy_if(examples.train.examples, std::back_inserter(texts),
                             [](const TextExample& example) { return !example.text.empty(); });
      return Tokenizer::train(texts, data.vocabulary, cache_directory,
                              [](const std::string& warning) { warn(warning); })
          .bytes();
    }));
  }
  Corpus corpus{std::move(read.class_names), tokenizer, {}};
  for (auto& [task, examples] : tasks)
    corpus.tasks.push_back({tokenize(task, std::move(examples.train), tokenizer, data),
                            tokenize(task, std::move(examples.validation), tokenizer, data),
                            tokenize(task, std::move(examples.test), tokenizer, data)});
  return corpus;
}

}  // namespace conclave
