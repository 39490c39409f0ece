#include "recipes/service/inputs.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/file.h"
#include "core/json_text.h"
#include "core/spelling.h"
#include "core/text.h"
#include "data/image_transform.h"
#include "recipes/service/base64.h"
#include "recipes/service/multipart.h"

namespace conclave::service {
namespace {

using nlohmann::json;

[[noreturn]] void refuse(std::string code, const std::string& message, int status = 400) {
  throw Refusal(status, std::move(code), message);
}

// At most `size` bytes of `text`, and no part of a character. The JSON parser's messages repeat the whole
// value that they are about.
std::string_view beginning(std::string_view text, std::size_t size) {
  if (text.size() <= size) return text;
  while (size > 0 && (static_cast<unsigned char>(text[size]) & 0xC0) == 0x80) --size;
  return text.substr(0, size);
}

// Throws json::exception where the bytes are not JSON. Limits the depth, because nested values are traversed
// and destroyed recursively and could overflow the stack. Limits the number of values, because many small
// ones take thirty times the memory of their text.
json parsed(std::string_view bytes) {
  static constexpr int kMostLevels = 16,
                       kMostEvents = 1000;  // an event is a begin, an end, a name or a value
  return json::parse(bytes, [events = 0](int level, json::parse_event_t, const json&) mutable {
    if (level > kMostLevels)
      refuse("bad_json", fmt::format("arrays and objects are nested more than {} levels deep", kMostLevels));
    if (++events > kMostEvents) refuse("bad_json", "too many names and values; a query has fewer than ten");
    return true;
  });
}

// Decodes base64, or a data URL with base64 ("data:image/png;base64,..."), as web pages make it.
std::string image_of(const std::string& letters) {
  std::string_view data = letters;
  if (data.starts_with("data:")) {
    const std::size_t comma = data.find(";base64,");
    if (comma == std::string_view::npos) refuse("bad_image", "image: a data URL that is not base64");
    data.remove_prefix(comma + 8);
  }
  auto bytes = from_base64(data);
  if (!bytes) refuse("bad_image", "image: not base64 (RFC 4648, with padding)");
  return std::move(*bytes);
}

void put(Fields& fields, const std::string& name, json value) {
  if (name != "text" && name != "image") {
    (*fields.options)[name] = std::move(value);
    return;
  }
  if (value.is_null()) return;
  if (!value.is_string()) refuse("bad_field", name + ": expected a string");
  auto& text = value.get_ref<std::string&>();
  (name == "text" ? fields.text : fields.image) = name == "text" ? std::move(text) : image_of(text);
}

// Reads the options of a task from JSON into its variables and checks them.
class Options {
 public:
  Options(const json& given, std::string_view task) : given_(given), task_(task) {}

  template <class T>
  void number(std::string_view name, T& value, double least, double most) {
    const json* found = find(name);
    if (!found) return;
    const bool right = std::is_integral_v<T> ? found->is_number_integer() : found->is_number();
    const double number = right ? found->get<double>() : 0;
    if (!right || !(number >= least && number <= most))
      refuse("bad_option",
             fmt::format("{}: expected {} from {} to {}, not {}", name,
                         std::is_integral_v<T> ? "a whole number" : "a number", least, most, shown(*found)));
    value = found->get<T>();
  }
  void truth(std::string_view name, bool& value) {
    const json* found = find(name);
    if (!found) return;
    if (!found->is_boolean())
      refuse("bad_option", fmt::format("{}: expected true or false, not {}", name, shown(*found)));
    value = found->get<bool>();
  }
  /// To be called last: refuses fields that no earlier call has read.
  void done() const {
    for (const auto& [whole, value] : given_.items()) {
      if (std::ranges::find(known_, whole) != known_.end()) continue;
      const std::string name =
          whole.substr(0, 64);  // a name may be as long as a body; nearest() would take too long
      std::vector<std::string_view> all{"text", "image"};
      all.insert(all.end(), known_.begin(), known_.end());
      refuse("unknown_field",
             fmt::format("{}: {} has no such field; did you mean {}? There are {}", json_text(json(name)),
                         task_, nearest(name, all), fmt::join(all, ", ")));
    }
  }

 private:
  const json* find(std::string_view name) {
    known_.push_back(name);
    const auto found = given_.find(name);
    return found == given_.end() || found->is_null() ? nullptr : &*found;
  }
  static std::string shown(const json& value) {
    const std::string text = json_text(value, true);
    return text.size() <= 40 ? text : text.substr(0, 40) + "...";
  }

  const json& given_;
  std::string_view task_;
  std::vector<std::string_view> known_;
};

void read_options(const Fields& fields, std::int64_t max_length, Query& query) {
  Options options(*fields.options, name_of(query.task));
  options.truth("experts", query.experts);
  CaptionOptions& caption = query.caption;
  SamplerOptions& sampling = query.sampling;
  constexpr double kMostSeed = 9007199254740992.0;  // 2^53: every JSON reader keeps such integers exact
  switch (query.task) {
    case TaskKind::classify:
      options.number("top", query.top, 1, 1000);
      break;
    case TaskKind::caption:
      options.number("beam", caption.beam, 1, 8);
      options.number("length_penalty", caption.length_penalty, 0, 10);
      options.number("top_p", caption.top_p, 0, 1);
      options.number("temperature", caption.temperature, 0.01, 100);
      options.number("seed", caption.seed, 0, kMostSeed);
      options.number("max_tokens", caption.max_tokens, 1, static_cast<double>(max_length));
      if (caption.top_p > 0 && caption.beam > 1) refuse("bad_option", "beam and top_p: give one of the two");
      break;
    case TaskKind::generate:
      options.number("count", query.count, 1, 16);
      options.number("steps", sampling.steps, 1, 100);
      options.number("guidance", sampling.guidance, 0, 20);
      options.number("seed", sampling.seed, 0, kMostSeed);
      // Other generate and caption queries wait until this one is finished.
      if (query.count * sampling.steps > Inputs::kMostSteps)
        refuse("bad_option",
               fmt::format("count: {} images of {} steps each; at most {} steps in all are allowed",
                           query.count, sampling.steps, Inputs::kMostSteps));
      break;
    case TaskKind::embed:
      break;
  }
  options.done();
}

}  // namespace

Fields::Fields() : options(std::make_unique<json>(json::object())) {}
Fields::~Fields() = default;
Fields::Fields(Fields&&) noexcept = default;

Fields JsonReader::read(const Body& body) const {
  json read;
  try {
    read = parsed(body.bytes);
  } catch (const json::exception& error) {
    refuse("bad_json", fmt::format("the body is not JSON: {}", beginning(error.what(), 200)));
  }
  if (!read.is_object())
    refuse("bad_json", "the body is JSON, but not an object such as {\"text\": \"...\"}");
  Fields fields;
  for (auto& [name, value] : read.items()) put(fields, name, std::move(value));
  return fields;
}

Fields FormReader::read(const Body& body) const {
  const auto boundary = form_boundary(body.type);
  if (!boundary) refuse("bad_form", "Content-Type: multipart/form-data needs a valid boundary parameter");
  Fields fields;
  for (const auto& [name, content] : form_parts(body.bytes, *boundary)) {
    if (name == "image") {
      fields.image.emplace(content);
    } else if (name == "text") {
      fields.text.emplace(content);
    } else {
      json value = std::string(content);
      try {
        value = parsed(content);
      } catch (const json::exception&) {  // not JSON: keep the content as a string
      }
      put(fields, std::string(name), std::move(value));
    }
  }
  return fields;
}

Inputs::Inputs(const InputShape& shape, std::size_t waiting)
    : shape_(shape), decoding_(kMostPixelsAtOnce, waiting) {
  add(std::make_unique<JsonReader>());
  add(std::make_unique<FormReader>());
}

Query Inputs::read(TaskKind task, const Body& body) const {
  std::string type(trimmed(body.type.substr(0, body.type.find(';'))));
  std::ranges::transform(type, type.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; });
  std::vector<std::string_view> types;
  for (const auto& reader : readers_) {
    if (reader->type() == type) return query_of(task, reader->read(body), body);
    types.push_back(reader->type());
  }
  refuse("unsupported_type",
         fmt::format("Content-Type: {}; expected {}", type.empty() ? "missing" : "not supported",
                     fmt::join(types, " or ")),
         415);
}

Query Inputs::query_of(TaskKind task, const Fields& fields, const Body& body) const {
  Query query{.task = task};
  const auto without = [&](bool given, const char* what, const char* why) {
    if (given) refuse("unwanted_field", fmt::format("{}: {} {}", what, name_of(task), why));
  };
  const auto needs = [&](bool given, const char* what) {
    if (!given) refuse("missing_field", fmt::format("{}: {} needs one", what, name_of(task)));
  };
  switch (traits_of(task).input) {
    case TaskInput::image:
      without(fields.text.has_value(), "text", "takes only an image");
      needs(fields.image.has_value(), "image");
      break;
    case TaskInput::text:
      without(fields.image.has_value(), "image", "takes only a text");
      needs(fields.text.has_value(), "text");
      break;
    case TaskInput::as_model:
      without(fields.text.has_value() && !shape_.classifies_texts, "text",
              "takes only images, with this model");
      without(fields.image.has_value() && !shape_.classifies_images, "image",
              "takes only texts, with this model");
      needs(fields.text || fields.image, shape_.classifies_texts ? "text" : "image");
      break;
  }
  read_options(fields, shape_.max_length, query);
  if (fields.text) {
    const std::string& text = *fields.text;
    if (trimmed(text, " \t\r\n").empty()) refuse("empty_text", "text: it is empty");
    if (text.size() > kMostText)
      refuse("text_too_long", fmt::format("text: {} bytes; at most {} are allowed", text.size(), kMostText),
             413);
    const std::size_t invalid = find_invalid_utf8(text);
    if (invalid != std::string_view::npos)
      refuse("bad_text", fmt::format("text: not UTF-8 from byte {} on", invalid));
    // As in `conclave predict`, a tab separates the two texts for a model of text pairs.
    const TextExample example = text_example(
        text, traits_of(task).input == TaskInput::as_model && shape_.tokenizer->separator().has_value());
    const TokenizedSplit split = shape_.tokenizer->encode_split(std::span(&example, 1), shape_.max_length);
    const auto tokens = split.sequence(0);
    query.tokens.assign(tokens.begin(), tokens.end());
    if (std::ssize(tokens) >= shape_.max_length) {
      const auto all = [&](const std::string& part) { return std::ssize(shape_.tokenizer->encode(part)); };
      query.truncated =
          all(example.text) + (example.pair.empty() ? 0 : 1 + all(example.pair)) > shape_.max_length;
    }
  }
  if (fields.image) try {
      // Even a small file may decode to kMostPixels pixels, so limit how many are decoded at once.
      std::optional<Gate::Pass> pass;
      const Image image = decode_image(*fields.image, "image", kMostPixels, [&](const ImageShape& shape) {
        pass.emplace(decoding_, shape.height * shape.width);
        if (body.forsaken && *body.forsaken) throw client_gone();
      });
      query.pixels = fit_image(image, shape_.image).pixels;
    } catch (const Refusal&) {
      throw;
    } catch (const ImageTooLarge& error) {
      refuse("image_too_large", error.what(), 413);
    } catch (const Error& error) {
      refuse("bad_image", error.what());
    }
  return query;
}

}  // namespace conclave::service
