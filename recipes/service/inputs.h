// The first of the service's layers: what came over the wire becomes a Query. A reader for each form that a
// body may have; another is a subclass of BodyReader more.
#pragma once

#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"
#include "recipes/service/gate.h"
#include "recipes/service/query.h"

namespace conclave::service {

/// As it came.
struct Body {
  std::string_view type;  ///< Content-Type, with its parameters
  std::string_view bytes;
};

/// What a body says, by name: a text, an image's file, and options, which are JSON's numbers and truth
/// values.
struct Fields {
  Fields();
  ~Fields();
  Fields(Fields&&) noexcept;
  std::optional<std::string> text, image;
  std::unique_ptr<nlohmann::json> options;  ///< an object
};

class BodyReader {
 public:
  virtual ~BodyReader() = default;
  /// "application/json"
  virtual std::string_view type() const = 0;
  /// Throws Refusal.
  virtual Fields read(const Body& body) const = 0;
};

/// {"text": ..., "image": base64, options}
class JsonReader : public BodyReader {
 public:
  std::string_view type() const override { return "application/json"; }
  Fields read(const Body& body) const override;
};

/// multipart/form-data: parts by the same names, the image's a file as it is.
class FormReader : public BodyReader {
 public:
  std::string_view type() const override { return "multipart/form-data"; }
  Fields read(const Body& body) const override;
};

/// What a query's data must be brought to.
struct InputShape {
  const Tokenizer* tokenizer = nullptr;  ///< null: no texts
  std::int64_t max_length = 0;
  ImageShape image = {};  ///< empty: no images
  bool classifies_texts = false, classifies_images = false;
};

class Inputs {
 public:
  /// Of JSON and forms. `waiting`: images that may wait until there is room for their pixels.
  explicit Inputs(const InputShape& shape, std::size_t waiting = 64);
  void add(std::unique_ptr<BodyReader> reader) { readers_.push_back(std::move(reader)); }

  /// For any number of threads. Throws Refusal: 415 for a type of body that nobody reads, 413 for a text or
  /// an image that is too large, 503 where too many images wait, else 400.
  Query read(TaskKind task, const Body& body) const;

  static constexpr std::size_t kMostText = std::size_t{1} << 16;       ///< bytes
  static constexpr std::int64_t kMostPixels = std::int64_t{32} << 20;  ///< of an image, before it is scaled
  static constexpr std::int64_t kMostPixelsAtOnce = 2 * kMostPixels;   ///< of all that are being scaled
  static constexpr std::int64_t kMostSteps = 256;                      ///< of all images of a query

  /// Through which images go, by their pixels, from when they are decoded until they are scaled.
  Gate& decoding() const { return decoding_; }

 private:
  Query query_of(TaskKind task, const Fields& fields) const;

  InputShape shape_;
  mutable Gate decoding_;
  std::vector<std::unique_ptr<BodyReader>> readers_;
};

}  // namespace conclave::service
