#include "data/tokenizer.h"

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <unordered_map>
#include <utility>

#include "core/file.h"
#include "core/text.h"
#include "core/xxh3.h"

namespace conclave {
namespace {

// Field 20000 of ModelProto (fields from 200 on are extensions), 32 bytes long: the tag is 20000 << 3 | 2 as
// a varint.
constexpr std::string_view kChecksumField = "\x82\xE2\x09\x20";
constexpr std::size_t kHexDigits = 32;

// Upper case, which normalized text never contains, so no learnt piece can have the same name.
constexpr const char* kSeparator = "<SEP>";

// The trainer's suffix array takes 5 times the size of the text, and more text hardly changes a vocabulary of
// some ten thousand pieces.
constexpr std::size_t kMostTrainingBytes = std::size_t{64} << 20;

std::string checksum_of(std::string_view model) {
  const Xxh3Digest digest = xxh3_128(model.data(), model.size());
  return hexadecimal(std::as_bytes(std::span(digest)));
}

// The number of threads affects the model because sums are taken per thread, so it is fixed; 16 is
// SentencePiece's default.
std::unordered_map<std::string, std::string> settings(std::int64_t vocabulary, bool pairs) {
  std::unordered_map<std::string, std::string> chosen{
      {"model_type", "unigram"},
      {"vocab_size", std::to_string(vocabulary)},
      {"hard_vocab_limit", "false"},
      {"normalization_rule_name", "nmt_nfkc_cf"},
      {"character_coverage", "0.9995"},
      {"seed_sentencepiece_size", std::to_string(std::max<std::int64_t>(100'000, 4 * vocabulary))},
      {"max_sentence_length", std::to_string(1 << 30)},
      {"num_threads", "16"},
      {"minloglevel", "3"}};
  // A control symbol has an id but no text encodes to it, so a user's text is never mistaken for it.
  if (pairs) chosen["control_symbols"] = kSeparator;
  return chosen;
}

bool has_pairs(std::span<const TextExample> texts) {
  return std::ranges::any_of(texts, [](const TextExample& example) { return !example.pair.empty(); });
}

class Sample : public sentencepiece::SentenceIterator {
 public:
  explicit Sample(std::span<const TextExample> texts) {
    for (const TextExample& example : texts) texts_.push_back(&example.text);
    // Second texts follow all first texts: if they alternated, an even stride would sample no second text.
    for (const TextExample& example : texts)
      if (!example.pair.empty()) texts_.push_back(&example.pair);
    std::size_t bytes = 0;
    for (const std::string* text : texts_) bytes += text->size();
    stride_ = bytes / kMostTrainingBytes + 1;
  }
  bool done() const override { return at_ >= texts_.size(); }
  void Next() override { at_ += stride_; }
  const std::string& value() const override { return *texts_[at_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  std::vector<const std::string*> texts_;
  std::size_t at_ = 0, stride_ = 1;
};

std::string cache_key(std::span<const TextExample> texts, std::int64_t vocabulary) {
  Xxh3 hash;
  const auto add = [&](std::string_view text) {
    const std::uint64_t size = text.size();
    hash.add({reinterpret_cast<const char*>(&size), sizeof size});
    hash.add(text);
  };
  const auto chosen = settings(vocabulary, has_pairs(texts));
  std::vector<std::pair<std::string, std::string>> sorted(chosen.begin(), chosen.end());
  std::sort(sorted.begin(), sorted.end());
  for (const auto& [name, value] : sorted) {
    add(name);
    add(value);
  }
  for (const TextExample& example : texts) {
    add(example.text);
    if (!example.pair.empty()) add(example.pair);
  }
  const Xxh3Digest digest = hash.digest();
  return hexadecimal(std::as_bytes(std::span(digest)));
}

std::string train_model(std::span<const TextExample> texts, std::int64_t vocabulary) {
  Sample sample(texts);
  std::string model;
  const auto status =
      sentencepiece::SentencePieceTrainer::Train(settings(vocabulary, has_pairs(texts)), &sample, &model);
  require(status.ok(),
          "Tokenizer::train: SentencePiece could not make {} pieces of {} texts: {}; a larger vocabulary "
          "holds more different characters",
          vocabulary, texts.size(), status.message());
  const std::string hash = checksum_of(model);
  return model.append(kChecksumField).append(hash);
}

}  // namespace

Tokenizer Tokenizer::train(std::span<const TextExample> texts, std::int64_t vocabulary,
                           const std::string& cache_directory,
                           const std::function<void(const std::string&)>& warn) {
  require(vocabulary >= 16 && vocabulary <= 1'000'000,
          "Tokenizer::train: vocabulary {} is not in [16, 1000000]", vocabulary);
  require(std::any_of(texts.begin(), texts.end(),
                      [](const TextExample& example) {
                        return example.text.find_first_not_of(" \t\r\n") != std::string::npos;
                      }),
          "Tokenizer::train: none of the {} texts has any text to train on", texts.size());
  if (cache_directory.empty()) return from_bytes(train_model(texts, vocabulary));

  std::error_code error, ignored;
  std::filesystem::create_directories(cache_directory, error);
  const std::string path = cache_directory + "/tokenizer-" + cache_key(texts, vocabulary) + ".model";
  if (std::filesystem::exists(path, ignored)) {
    try {
      return from_bytes(read_file(path, "delete it"));
    } catch (const Error&) {
      // A damaged cache file is not an error: train again and replace it.
    }
  }
  std::string bytes = train_model(texts, vocabulary);
  try {
    require(!error, "{}: the folder cannot be made: {}", cache_directory, error.message());
    write_file_atomically(path, bytes);
  } catch (const Error& problem) {  // the file only saves time
    if (warn)
      warn(fmt::format("the tokenizer is not kept for later runs: {}; XDG_CACHE_HOME names another folder",
                       problem.what()));
  }
  return from_bytes(std::move(bytes));
}

Tokenizer Tokenizer::from_bytes(std::string serialized) {
  const std::size_t suffix = kChecksumField.size() + kHexDigits;
  require(serialized.size() > suffix, "Tokenizer: {} bytes are too few for a serialized tokenizer",
          serialized.size());
  const std::string_view all = serialized, model = all.substr(0, all.size() - suffix);
  require(all.substr(model.size(), kChecksumField.size()) == kChecksumField &&
              all.substr(all.size() - kHexDigits) == checksum_of(model),
          "Tokenizer: the serialized tokenizer is damaged, or was not written by Conclave: its checksum is "
          "wrong; "
          "take it from another checkpoint, or train it again");
  auto processor = std::make_shared<sentencepiece::SentencePieceProcessor>();
  const auto status = processor->LoadFromSerializedProto(model);
  require(status.ok(), "Tokenizer: SentencePiece refuses the serialized tokenizer: {}; train it again",
          status.message());
  Tokenizer tokenizer;
  tokenizer.bytes_ = std::move(serialized);
  tokenizer.model_ = std::move(processor);
  return tokenizer;
}

std::string Tokenizer::hash() const { return bytes_.substr(bytes_.size() - kHexDigits); }

std::int64_t Tokenizer::vocabulary() const { return model_->GetPieceSize(); }

std::int32_t Tokenizer::unknown() const { return model_->unk_id(); }

std::int32_t Tokenizer::end() const { return model_->eos_id(); }

std::optional<std::int32_t> Tokenizer::separator() const {
  const std::int32_t id = model_->PieceToId(kSeparator);
  return model_->IsControl(id) ? std::optional(id) : std::nullopt;
}

bool Tokenizer::spells(std::int32_t id) const {
  require_id(id);
  return !model_->IsUnknown(id) && !model_->IsControl(id) && !model_->IsUnused(id);
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> ids;
  const auto status = model_->Encode(text, &ids);
  require(status.ok(), "Tokenizer::encode: {}", status.message());
  return ids;
}

std::vector<std::int32_t> Tokenizer::encode_pair(const TextExample& example, std::int64_t max_length) const {
  const std::optional<std::int32_t> between = separator();
  require(between.has_value(),
          "Tokenizer::encode_split: a pair of texts, but the tokenizer was trained on single ones; train a "
          "model on pairs");
  require(max_length >= 3, "Tokenizer::encode_split: max_length {} cannot hold a pair; 3 is the least",
          max_length);
  std::vector<std::int32_t> first = encode(example.text), second = encode(example.pair);
  for (auto* ids : {&first, &second})
    if (ids->empty()) ids->push_back(unknown());
  const auto room = static_cast<std::size_t>(max_length - 1);
  if (first.size() + second.size() > room) {
    const std::size_t beside_second = room - std::min(second.size(), room / 2);
    const std::size_t kept = std::min(first.size(), beside_second);
    first.resize(kept);
    second.resize(room - kept);
  }
  first.push_back(*between);
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

TokenizedSplit Tokenizer::encode_split(std::span<const TextExample> texts, std::int64_t max_length) const {
  return encode_split(texts, max_length, false);
}

TokenizedSplit Tokenizer::encode_split(ImageSplit split, std::int64_t max_length) const {
  TokenizedSplit tokenized = encode_split(split.examples, max_length, true);
  tokenized.images = std::move(split.images);
  return tokenized;
}

TokenizedSplit Tokenizer::encode_split(std::span<const TextExample> texts, std::int64_t max_length,
                                       bool some_missing) const {
  require(max_length > 0, "Tokenizer::encode_split: max_length {} leaves no tokens", max_length);
  TokenizedSplit split;
  split.labels.reserve(texts.size());
  split.in_domain.reserve(texts.size());
  split.offsets.reserve(texts.size() + 1);
  for (const TextExample& example : texts) {
    std::vector<std::int32_t> ids =
        example.pair.empty() ? encode(example.text) : encode_pair(example, max_length);
    if (ids.empty() && !(some_missing && example.text.empty())) ids.push_back(unknown());
    const auto kept = std::min(static_cast<std::int64_t>(ids.size()), max_length);
    split.tokens.insert(split.tokens.end(), ids.begin(), ids.begin() + kept);
    split.offsets.push_back(static_cast<std::int64_t>(split.tokens.size()));
    split.labels.push_back(example.label);
    split.in_domain.push_back(example.in_domain ? 1 : 0);
    if (example.client >= 0) split.clients.push_back(example.client);
    if (example.score) split.scores.push_back(*example.score);
  }
  return split;
}

void Tokenizer::require_id(std::int32_t id) const {
  require(id >= 0 && id < vocabulary(), "Tokenizer: id {} is outside the vocabulary of {}", id, vocabulary());
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  for (const std::int32_t id : ids) require_id(id);
  std::string text;
  const auto status = model_->Decode(std::vector<int>(ids.begin(), ids.end()), &text);
  require(status.ok(), "Tokenizer::decode: {}", status.message());
  return text;
}

std::string Tokenizer::piece(std::int32_t id) const {
  require_id(id);
  return model_->IdToPiece(id);
}

float Tokenizer::score(std::int32_t id) const {
  require_id(id);
  return model_->GetScore(id);
}

}  // namespace conclave
