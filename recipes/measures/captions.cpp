#include "recipes/measures/captions.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <set>

#include "core/error.h"

namespace conclave {
namespace {

constexpr std::size_t kOrders = 4;  // n-grams of 1 to 4 words
constexpr double kSigma = 6;        // of CIDEr-D's length penalty, in words

bool is_digit(char c) { return c >= '0' && c <= '9'; }
// A character of a word; bytes above ASCII are parts of letters.
bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || is_digit(c) || static_cast<unsigned char>(c) >= 0x80;
}

// "man's" becomes two words, "man" and "'s"; "isn't" becomes "is" and "n't".
void add_word(std::string word, std::vector<std::string>& words) {
  for (const std::string_view end : {"n't", "'s", "'re", "'ve", "'ll", "'d", "'m"})
    if (word.size() > end.size() && word.ends_with(end)) {
      words.push_back(word.substr(0, word.size() - end.size()));
      words.emplace_back(end);
      return;
    }
  words.push_back(std::move(word));
}

// An n-gram: the numbers of its words.
using NGram = std::array<std::int32_t, kOrders>;  // unused places are -1
using Counts = std::map<NGram, double>;

struct Sentence {
  double words = 0;
  std::array<Counts, kOrders> counts;  // [n - 1]
};

class Vocabulary {
 public:
  Sentence sentence(std::string_view text) {
    std::vector<std::int32_t> ids;
    for (const std::string& word : caption_words(text))
      ids.push_back(ids_.emplace(word, static_cast<std::int32_t>(ids_.size())).first->second);
    Sentence sentence{static_cast<double>(ids.size()), {}};
    for (std::size_t n = 1; n <= kOrders; ++n)
      for (std::size_t first = 0; first + n <= ids.size(); ++first) {
        NGram gram;
        gram.fill(-1);
        std::copy_n(ids.begin() + static_cast<std::ptrdiff_t>(first), n, gram.begin());
        ++sentence.counts[n - 1][gram];
      }
    return sentence;
  }

 private:
  std::map<std::string, std::int32_t, std::less<>> ids_;
};

struct Judged {
  Sentence caption;
  std::vector<Sentence> references;
};

std::vector<Judged> as_sentences(std::span<const JudgedCaption> captions) {
  require(!captions.empty(), "there are no captions to judge");
  Vocabulary vocabulary;
  std::vector<Judged> judged;
  for (const JudgedCaption& one : captions) {
    require(!one.references.empty(), "caption {} (`{}`) has no references", judged.size(), one.caption);
    Judged& sentences = judged.emplace_back(Judged{vocabulary.sentence(one.caption), {}});
    for (const std::string& reference : one.references)
      sentences.references.push_back(vocabulary.sentence(reference));
  }
  return judged;
}

double count_of(const Counts& counts, const NGram& gram) {
  const auto found = counts.find(gram);
  return found == counts.end() ? 0 : found->second;
}

// TF-IDF: the weight of an n-gram is its count times log(images / images whose references contain it).
class Rarity {
 public:
  explicit Rarity(std::span<const Judged> images) : images_(static_cast<double>(images.size())) {
    for (const Judged& image : images) {
      std::set<NGram> seen;
      for (const Sentence& reference : image.references)
        for (const Counts& counts : reference.counts)
          for (const auto& [gram, count] : counts) seen.insert(gram);
      for (const NGram& gram : seen) ++images_with_[gram];
    }
  }

  void weigh(Counts& counts) const {
    for (auto& [gram, count] : counts)
      count *= std::log(images_ / std::max(1.0, count_of(images_with_, gram)));
  }

 private:
  double images_;
  Counts images_with_;
};

double norm(const Counts& weights) {
  double sum = 0;
  for (const auto& [gram, weight] : weights) sum += weight * weight;
  return std::sqrt(sum);
}

// Similarity of two sentences with weighted counts.
double likeness(const Sentence& caption, const Sentence& reference) {
  double sum = 0;
  for (std::size_t n = 0; n < kOrders; ++n) {
    double product = 0;
    for (const auto& [gram, weight] : caption.counts[n]) {
      const double other = count_of(reference.counts[n], gram);
      product += std::min(weight, other) * other;
    }
    const double norms = norm(caption.counts[n]) * norm(reference.counts[n]);
    if (norms > 0) sum += product / norms;
  }
  const double off = caption.words - reference.words;
  return sum / static_cast<double>(kOrders) * std::exp(-off * off / (2 * kSigma * kSigma));
}

}  // namespace

std::vector<std::string> caption_words(std::string_view caption) {
  std::string text(caption);
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  std::vector<std::string> words;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t end = at;
    const auto within = [&](auto kind) {
      return end > at && kind(text[end - 1]) && end + 1 < text.size() && kind(text[end + 1]);
    };
    while (end < text.size() &&
           (is_letter(text[end]) || ((text[end] == '-' || text[end] == '\'') && within(is_letter)) ||
            ((text[end] == '.' || text[end] == ',') && within(is_digit))))
      ++end;
    if (end > at) add_word(text.substr(at, end - at), words);
    at = std::max(end, at + 1);
  }
  return words;
}

std::array<double, kOrders> bleu(std::span<const JudgedCaption> captions) {
  std::array<double, kOrders> right{}, all{};
  double words = 0, reference_words = 0;
  for (const auto& [caption, references] : as_sentences(captions)) {
    words += caption.words;
    const auto distance = [&](const Sentence& reference) {
      return std::pair(std::abs(reference.words - caption.words), reference.words);
    };
    reference_words += std::ranges::min(references, {}, distance).words;
    for (std::size_t n = 0; n < kOrders; ++n)
      for (const auto& [gram, count] : caption.counts[n]) {
        double most = 0;
        for (const Sentence& reference : references)
          most = std::max(most, count_of(reference.counts[n], gram));
        right[n] += std::min(count, most);
        all[n] += count;
      }
  }
  const double brevity = words < reference_words ? std::exp(1 - reference_words / std::max(words, 1.0)) : 1;
  std::array<double, kOrders> result{};
  double logarithms = 0;
  for (std::size_t n = 0; n < kOrders && right[n] > 0; ++n) {
    logarithms += std::log(right[n] / all[n]);
    result[n] = brevity * std::exp(logarithms / static_cast<double>(n + 1));
  }
  return result;
}

double cider_d(std::span<const JudgedCaption> captions) {
  std::vector<Judged> images = as_sentences(captions);
  const Rarity rarity(images);
  double sum = 0;
  for (auto& [caption, references] : images) {
    for (Counts& counts : caption.counts) rarity.weigh(counts);
    double likenesses = 0;
    for (Sentence& reference : references) {
      for (Counts& counts : reference.counts) rarity.weigh(counts);
      likenesses += likeness(caption, reference);
    }
    sum += 10 * likenesses / static_cast<double>(references.size());
  }
  return sum / static_cast<double>(images.size());
}

}  // namespace conclave
