// Subword tokens of SentencePiece's unigram model (Kudo 2018), trained on the texts of the train split. Texts
// are lower-cased and NFKC-normalized. Training is a pure function of the texts and the vocabulary size and
// gives the same bits on every machine, so a cached model is found by a hash of its training input.
//
// The two texts of a pair become one sequence with a separator token between them. No text can encode to the
// separator. A tokenizer has a separator only if it was trained on pairs.
//
// A serialized model is a SentencePiece .model file, readable by SentencePiece's tools, with its XXH3-128
// checksum appended as one more protobuf field. The checksum is verified before SentencePiece parses the
// model.
#pragma once

#include <cstdint>
#include <functional>
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

/// A value type: copies share the immutable model. All const functions are thread-safe.
class Tokenizer {
 public:
  /// Trains on `texts` and their pairs (on an even sample of them if they exceed 64 MiB), or reads the same
  /// model from the file of an earlier call in `cache_directory` ("": no cache). Texts with too little
  /// variety for `vocabulary` pieces give a smaller vocabulary. Processes may run this at the same time: each
  /// trains the same model and replaces the file atomically. If it cannot be written, calls `warn` with the
  /// reason. Throws Error if there is no text, or if `vocabulary` is too small for the texts' characters.
  static Tokenizer train(std::span<const TextExample> texts, std::int64_t vocabulary,
                         const std::string& cache_directory,
                         const std::function<void(const std::string&)>& warn = {});

  /// Restores the tokenizer from its bytes(). Throws Error if `serialized` is damaged or is not a tokenizer.
  static Tokenizer from_bytes(std::string serialized);

  const std::string& bytes() const { return bytes_; }
  /// XXH3-128 of the model, 32 hexadecimal digits; equal hashes mean equal encodings.
  std::string hash() const;

  /// Ids are 0 .. vocabulary() - 1. Id 0 is the unknown piece, 1 the begin and 2 the end of a text; encode()
  /// adds neither.
  std::int64_t vocabulary() const;
  std::int32_t unknown() const;
  /// The end-of-text id. No text encodes to it.
  std::int32_t end() const;
  /// The separator's id; nullopt if the tokenizer was not trained on pairs.
  std::optional<std::int32_t> separator() const;

  /// Whether `id` stands for characters, i.e. is neither the unknown piece nor a control or unused piece.
  bool spells(std::int32_t id) const;

  /// Ids of `text`; empty if nothing is left of it after normalization.
  std::vector<std::int32_t> encode(std::string_view text) const;

  /// The first `max_length` ids of every text, in order. A text without ids becomes one unknown piece, so
  /// that no sequence is empty. A pair becomes the ids of its first text, the separator and the ids of its
  /// second text; if that is too long, the longer text is shortened until both have the same length, then
  /// both. Throws Error for a pair if the tokenizer has no separator or max_length is below 3.
  TokenizedSplit encode_split(std::span<const TextExample> texts, std::int64_t max_length) const;

  /// Like the above, with the images of `split`. An empty text stays without tokens.
  TokenizedSplit encode_split(ImageSplit split, std::int64_t max_length) const;

  /// The normalized text of `ids`; throws Error for an id outside the vocabulary.
  std::string decode(std::span<const std::int32_t> ids) const;

  /// The piece of `id` ("\u2581" marks the beginning of a word); throws Error for an id outside the
  /// vocabulary.
  std::string piece(std::int32_t id) const;
  /// Log probability of the piece, by which the model chooses the segmentation of a text.
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
