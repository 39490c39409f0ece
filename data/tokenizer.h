// Subword tokens by SentencePiece's unigram model (Kudo 2018), trained on the train split's own texts,
// lower-cased and NFKC-normalized. Training is a pure function of the texts and the vocabulary size: the same
// bits come on every machine, so a cached model is found by a hash of what it was trained from.
//
// Two texts that are judged together become one sequence, with a separator between them. Texts never encode
// to that piece, whatever they say; a tokenizer has it where it was trained on pairs.
//
// A serialized model is a SentencePiece .model file that any of its tools can read, with our XXH3-128 of it
// appended as one more protobuf field, so that a damaged one is refused before SentencePiece meets it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/dataset.h"

namespace sentencepiece {
class SentencePieceProcessor;
}

namespace conclave {

/// A value: copies share the immutable model; all const functions may be called from many threads.
class Tokenizer {
 public:
  /// Trains on `texts` and their pairs (an even sample of them above 64 MiB), or reads the same model from an
  /// earlier call's file in `cache_directory` ("": no cache). Texts too poor for `vocabulary` pieces give a
  /// smaller one. Processes that race train the same model and each put it in place whole. Throws Error where
  /// there is no text, or `vocabulary` is too small for the texts' characters.
  static Tokenizer train(std::span<const TextExample> texts, std::int64_t vocabulary,
                         const std::string& cache_directory);

  /// The tokenizer that bytes() came from; throws Error where `serialized` is damaged or not one.
  static Tokenizer from_bytes(std::string serialized);

  const std::string& bytes() const { return bytes_; }
  /// XXH3-128 of the model, 32 hexadecimal digits; equal hashes mean equal encodings.
  std::string hash() const;

  /// Ids are 0 .. vocabulary() - 1. 0 is the unknown piece, 1 and 2 begin and end (encode adds neither).
  std::int64_t vocabulary() const;
  std::int32_t unknown() const;
  /// What no text has, for the end of one.
  std::int32_t end() const;
  /// Of the piece between the two texts of a pair; none where no pair was among the texts trained on.
  std::optional<std::int32_t> separator() const;

  /// Whether `id` spells something: neither the unknown piece nor one that no text has.
  bool spells(std::int32_t id) const;

  /// Ids of `text`; empty where nothing is left of it after normalization.
  std::vector<std::int32_t> encode(std::string_view text) const;

  /// Every text's first `max_length` ids, in order; a text without ids becomes one unknown piece, so that no
  /// sequence is empty. Of a pair the first text's, the separator and the second's; what is too long is cut
  /// off from the longer of the two until both are of one length. Throws Error for a pair without a
  /// separator, or where max_length cannot hold one.
  TokenizedSplit encode_split(std::span<const TextExample> texts, std::int64_t max_length) const;

  /// The same with the images of `split`; a text that is missing, "", stays without tokens.
  TokenizedSplit encode_split(ImageSplit split, std::int64_t max_length) const;

  /// The normalized text that `ids` spell; throws Error for an id outside the vocabulary.
  std::string decode(std::span<const std::int32_t> ids) const;

  /// The piece that `id` stands for ("\u2581" marks a word's beginning); throws Error outside the vocabulary.
  std::string piece(std::int32_t id) const;
  /// Its log probability, by which texts are divided.
  float score(std::int32_t id) const;

 private:
  Tokenizer() = default;
  TokenizedSplit encode_split(std::span<const TextExample> texts, std::int64_t max_length,
                              bool some_missing) const;
  std::vector<std::int32_t> encode_pair(const TextExample& example, std::int64_t max_length) const;
  void require_id(std::int32_t id) const;

  std::string bytes_;
  std::shared_ptr<const sentencepiece::SentencePieceProcessor> model_;
};

}  // namespace conclave
