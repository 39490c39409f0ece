#include "recipes/corpus.h"

#include <algorithm>

#include "data/text_table.h"
#include "data/wordnet.h"

namespace conclave {

TextDataset read_texts(const DataRecipe& recipe) {
  if (recipe.source == "wordnet")
    return read_wordnet(recipe.path.empty() ? kWordNetDirectory : recipe.path, recipe.classes,
                        recipe.synset_words, recipe.domain);
  return read_text_table({.path = recipe.path,
                          .train = recipe.train,
                          .validation = recipe.validation,
                          .test = recipe.test,
                          .text_column = recipe.text_column,
                          .label_column = recipe.label_column,
                          .domain_column = recipe.domain_column});
}

Corpus load_corpus(const DataRecipe& recipe, Communicator& world, const std::string& cache_directory,
                   std::optional<Tokenizer> tokenizer) {
  const TextDataset texts = read_texts(recipe);
  const bool in_domain = std::ranges::any_of(texts.train, &TextExample::in_domain);
  require(in_domain || recipe.domain_name().empty(), "data.{} = \"{}\": no training text is of it",
          recipe.source == "table" ? "domain_column" : "domain", recipe.domain_name());
  if (!tokenizer) {
    std::string bytes, problem;
    if (world.rank() == 0) {
      try {
        bytes = Tokenizer::train(texts.train, recipe.vocabulary, cache_directory).bytes();
      } catch (const Error& error) {  // the others wait for the bytes, so they must hear of it
        problem = error.what();
      }
    }
    problem = world.broadcast(problem, 0);
    require(problem.empty(), "{}", problem);
    tokenizer = Tokenizer::from_bytes(world.broadcast(bytes, 0));
  }
  return {texts.class_names, *tokenizer, tokenizer->encode_split(texts.train, recipe.max_length),
          tokenizer->encode_split(texts.validation, recipe.max_length),
          tokenizer->encode_split(texts.test, recipe.max_length)};
}

}  // namespace conclave
