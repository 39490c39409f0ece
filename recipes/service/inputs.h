// The first layer of the service: it turns the body of a request into a Query. Each format of a body has a
// reader; for another format, add a subclass of BodyReader.
#pragma once

#include <atomic>
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

/// The body of a request, as received.
struct Body {
  std::string_view type;  ///< Content-Type, with its parameters
  std::string_view bytes;
  const std::atomic<bool>* forsaken = nullptr;  ///< set once nobody waits for the answer; null: never set
};

/// The named fields of a body: a text, the bytes of an image file, and options, which are JSON numbers and
/// booleans.
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

/// multipart/form-data: parts with the same names as in JSON; the image is a file, not base64.
class FormReader : public BodyReader {
 public:
  std::string_view type() const override { return "multipart/form-data"; }
  Fields read(const Body& body) const override;
};

/// The form in which the model takes texts and images.
struct InputShape {
  const Tokenizer* tokenizer = nullptr;  ///< null: no texts
  std::int64_t max_length = 0;
  ImageShape image = {};  ///< empty: no images
  bool classifies_texts = false, classifies_images = false;
};

class Inputs {
 public:
  /// With readers for JSON and forms. `waiting`: most images that wait until there is room for their pixels.
  explicit Inputs(const InputShape& shape, std::size_t waiting = 64);
  void add(std::unique_ptr<BodyReader> reader) { readers_.push_back(std::move(reader)); }

  /// Thread-safe. Throws Refusal: 415 for a body type without a reader, 413 for a text or an image that is
  /// too large, 503 where too many images wait, 499 where the body is forsaken when its image is to be
  /// decoded, else 400.
  Query read(TaskKind task, const Body& body) const;

  static constexpr std::size_t kMostText = std::size_t{1} << 16;       ///< bytes
  static constexpr std::int64_t kMostPixels = std::int64_t{32} << 20;  ///< of an image, before it is scaled
  static constexpr std::int64_t kMostPixelsAtOnce = 2 * kMostPixels;   ///< of all images in decoding()
  static constexpr std::int64_t kMostSteps = 256;                      ///< of all images of a query

  /// Bounds the pixels of images that are in memory at once: each image holds a pass for its pixels while it
  /// is decoded and scaled.
  Gate& decoding() const { return decoding_; }

 private:
  Query query_of(TaskKind task, const Fields& fields, const Body& body) const;

  InputShape shape_;
  mutable Gate decoding_;
  std::vector<std::unique_ptr<BodyReader>> readers_;
};

}  // namespace conclave::service
