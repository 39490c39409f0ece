#include "data/fashion_gloss.h"

#include <array>
#include <string_view>
#include <vector>

#include "data/stable_bucket.h"

namespace conclave {
namespace {

constexpr std::size_t kClasses = 10;
using Texts = std::array<std::vector<std::string>, kClasses>;  // texts of each class of Fashion-MNIST

// Nouns for each class, in the order of read_fashion_mnist's classes. The first sense of each noun in
// noun.artifact describes the class.
const std::array<std::vector<std::string_view>, kClasses> kWords{{{"T-shirt", "polo shirt"},
                                                                  {"trouser", "slacks"},
                                                                  {"pullover", "sweater"},
                                                                  {"dress", "gown"},
                                                                  {"coat", "greatcoat"},
                                                                  {"sandal", "flip-flop"},
                                                                  {"shirt"},
                                                                  {"sneaker", "running shoe"},
                                                                  {"bag", "handbag"},
                                                                  {"boot", "chukka"}}};

// Distances, modulo 10, from an image's class to the class of its wrong text. 4 and 6 are left out because
// shirts are 4 after pullovers and 6 after T-shirts. Since all classes use the same distances, each class is
// wrong equally often.
constexpr std::array<std::uint32_t, 7> kSteps{1, 2, 3, 5, 7, 8, 9};

Texts read_texts(const std::string& wordnet) {
  std::vector<std::string_view> words;
  for (const auto& some : kWords) words.insert(words.end(), some.begin(), some.end());
  const std::vector<std::string> definitions = read_definitions(wordnet, "noun.artifact", words);
  Texts texts;
  auto next = definitions.begin();
  for (std::size_t i = 0; i < kClasses; ++i)
    for (std::size_t word = 0; word < kWords[i].size(); ++word) texts[i].push_back(*next++);
  return texts;
}

// Gives the examples of a split their texts. The split begins with number `first` of its file.
void add_texts(ImageSplit& split, std::string_view file, std::size_t first, const Texts& texts,
               const std::vector<std::string>& names) {
  for (std::size_t i = 0; i < split.examples.size(); ++i) {
    TextExample& example = split.examples[i];
    const auto shown = static_cast<std::size_t>(example.label);
    // One hash gives all three choices. Separate hashes of similar names would not be independent: the parity
    // of one name's crc32 follows from another's.
    std::uint32_t rest = bucket_of(fmt::format("{} {}", file, first + i), 2 * kSteps.size() * 2);
    const auto choose = [&rest](std::size_t choices) {
      const std::size_t chosen = rest % choices;
      rest /= static_cast<std::uint32_t>(choices);
      return chosen;
    };
    const bool match = choose(2) == 1;
    const std::size_t step = kSteps[choose(kSteps.size())];
    const std::vector<std::string>& some = texts[match ? shown : (shown + step) % kClasses];
    example.text = some[choose(some.size())];
    example.label = match ? 1 : 0;
    example.captions = {names[shown]};
  }
}

}  // namespace

ImageDataset read_fashion_gloss(const std::string& fashion_mnist, const std::string& wordnet) {
  const Texts texts = read_texts(wordnet);
  ImageDataset data = read_fashion_mnist(fashion_mnist);
  require(data.class_names.size() == kClasses, "read_fashion_gloss: {} classes of clothes",
          data.class_names.size());
  add_texts(data.train, "train", 0, texts, data.class_names);
  add_texts(data.validation, "train", data.train.examples.size(), texts, data.class_names);
  add_texts(data.test, "t10k", 0, texts, data.class_names);
  data.class_names = {"mismatch", "match"};
  return data;
}

}  // namespace conclave
