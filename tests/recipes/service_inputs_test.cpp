#include "recipes/service/inputs.h"

#include <catch2/catch.hpp>
#include <future>
#include <nlohmann/json.hpp>

#include "core/file.h"
#include "recipes/service/base64.h"

namespace conclave::service {
namespace {

using Catch::Matchers::Contains;

const Tokenizer& tokenizer() {
  static const Tokenizer trained = [] {
    std::vector<TextExample> texts;
    for (int i = 0; i < 50; ++i)
      texts.push_back({.text = "a small cat sat on the mat with " + std::to_string(i)});
    return Tokenizer::train(texts, 60, "");
  }();
  return trained;
}

const InputShape kBoth{.tokenizer = &tokenizer(),
                       .max_length = 6,
                       .image = {4, 4, 3},
                       .classifies_texts = true,
                       .classifies_images = true};

Query of_json(TaskKind task, const std::string& body, const InputShape& shape = kBoth) {
  return Inputs(shape).read(task, {"application/json; charset=utf-8", body});
}

std::string red_png(std::int64_t side) {
  Image image{{side, side, 3}, {}};
  for (std::int64_t i = 0; i < side * side; ++i) image.pixels.insert(image.pixels.end(), {200, 10, 10});
  return encode_png(image);
}

// The bytes of a form with the boundary "x".
std::string form(const std::vector<std::pair<std::string, std::string>>& parts) {
  std::string bytes;
  for (const auto& [name, content] : parts)
    bytes += "--x\r\nContent-Disposition: form-data; name=\"" + name + "\"\r\n\r\n" + content + "\r\n";
  return bytes + "--x--\r\n";
}
constexpr std::string_view kForm = "multipart/form-data; boundary=x";

// The status and code of the refusal; {200, ""} if there is none.
std::pair<int, std::string> refusal(TaskKind task, const Body& body, const InputShape& shape = kBoth) {
  try {
    Inputs(shape).read(task, body);
    return {200, ""};
  } catch (const Refusal& refused) {
    CHECK((std::string(refused.what()).size() > 5 && std::string(refused.what()).size() < 1000));
    return {refused.status, refused.code};
  }
}
std::pair<int, std::string> refusal(TaskKind task, const std::string& json, const InputShape& shape = kBoth) {
  return refusal(task, Body{"application/json", json}, shape);
}
std::pair<int, std::string> bad(const char* code) { return {400, code}; }

TEST_CASE("base64 decodes to the encoded bytes, and invalid base64 is refused", "[service]") {
  for (const std::string bytes : {"", "f", "fo", "foo", "foob", "\xFF\xFE\x00\x01 and more"})
    CHECK(from_base64(to_base64(bytes)) == bytes);
  CHECK(to_base64("foob") == "Zm9vYg==");
  CHECK(from_base64("Zm9v\r\nYg==") == "foob");
  for (const char* none : {"Zm9", "Zm9vYg=", "Zm9vYg===", "Zm=v", "Zm9v!g==", "====", "Zm9vYg==Zm9v"})
    CHECK_FALSE(from_base64(none).has_value());
}

TEST_CASE("texts become tokens of limited length, images get the model's shape", "[service]") {
  const Query text = of_json(TaskKind::classify, R"({"text": "a small cat sat", "top": 2, "experts": true})");
  CHECK_FALSE(text.tokens.empty());
  CHECK(text.pixels.empty());
  CHECK(text.top == 2);
  CHECK(text.experts);
  CHECK_FALSE(of_json(TaskKind::classify, R"({"text": "a"})").truncated);
  const Query cut = of_json(TaskKind::classify, R"({"text": "a small cat sat on the mat with a small cat"})");
  CHECK(cut.tokens.size() == 6);
  CHECK(cut.truncated);
  const std::string image = to_base64(red_png(9));
  const Query both = of_json(TaskKind::embed, R"({"text": "cat", "image": ")" + image + "\"}");
  REQUIRE(both.pixels.size() == 48);
  CHECK(both.pixels[0] == 200);
  CHECK(of_json(TaskKind::caption, R"({"image": "data:image/png;base64,)" + image + R"(", "beam": 3})")
            .caption.beam == 3);
  const Query drawn =
      of_json(TaskKind::generate, R"({"text": "cat", "count": 2, "guidance": 1, "seed": 9007199254740991})");
  CHECK(drawn.count == 2);
  CHECK(drawn.sampling.guidance == 1);
  CHECK(drawn.sampling.seed == 9007199254740991u);
}

TEST_CASE("a form has the same fields as JSON, with an image as a file", "[service]") {
  const std::string png = red_png(4);
  const std::string whole = form({{"text", "a cat"}, {"image", png}, {"top", "3"}, {"experts", "true"}});
  const Query query = Inputs(kBoth).read(TaskKind::classify, {kForm, whole});
  CHECK(query.pixels.size() == 48);
  CHECK(query.top == 3);
  CHECK(query.experts);
  CHECK(refusal(TaskKind::classify, Body{kForm, form({{"text", "cat"}, {"top", "many"}})}) ==
        bad("bad_option"));
  CHECK(refusal(TaskKind::classify, Body{"multipart/form-data", whole}) == bad("bad_form"));
  CHECK(refusal(TaskKind::classify, Body{kForm, whole.substr(0, whole.size() - 9)}) == bad("bad_form"));
}

TEST_CASE("invalid inputs are refused with the right status", "[service]") {
  const TaskKind classify = TaskKind::classify, caption = TaskKind::caption, generate = TaskKind::generate;
  CHECK(refusal(classify, Body{"text/plain", "cat"}) == std::pair(415, std::string("unsupported_type")));
  CHECK(refusal(classify, Body{"", "cat"}) == std::pair(415, std::string("unsupported_type")));
  for (const char* json : {"", "{", "{\"text\": \"\xFF\"}", "[1]", "\"text\"", "{\"text\": \"\\ud800\"}"})
    CHECK(refusal(classify, json) == bad("bad_json"));
  // Deep nesting is refused before it is parsed, as it would overflow the stack.
  const std::string deep = std::string(1000000, '[') + std::string(1000000, ']');
  for (const std::string& json : {std::string(100000, '['), deep, R"({"text": "a", "top": )" + deep + "}",
                                  R"({"text": "a", "x": )" + deep + "}"})
    CHECK(refusal(classify, json) == bad("bad_json"));
  CHECK(refusal(classify, Body{kForm, form({{"text", "cat"}, {"top", deep}})}) == bad("bad_json"));
  CHECK(refusal(classify, std::string(100000, '1') + "x") == bad("bad_json"));  // and not repeated
  // Very many values are refused, as they would take much more memory than the text.
  std::string wide = "[{}";
  for (int i = 0; i < 100'000; ++i) wide += ",{}";
  wide += "]";
  CHECK(refusal(classify, R"({"text": "a", "x": )" + wide + "}") == bad("bad_json"));
  CHECK(refusal(classify, Body{kForm, form({{"text", "cat"}, {"x", wide}})}) == bad("bad_json"));
  CHECK(refusal(generate, R"({"text": "a", "count": 4, "steps": 65})") == bad("bad_option"));
  CHECK(refusal(generate, R"({"text": "a", "count": 4, "steps": 64})").first == 200);
  CHECK(refusal(classify, "{}") == bad("missing_field"));
  CHECK(refusal(classify, R"({"text": null})") == bad("missing_field"));
  CHECK(refusal(classify, R"({"text": 5})") == bad("bad_field"));
  CHECK(refusal(classify, R"({"text": " \n"})") == bad("empty_text"));
  CHECK(refusal(classify, "{\"text\": \"" + std::string(70000, 'a') + "\"}").first == 413);
  CHECK(refusal(classify, Body{kForm, form({{"text", "\xC0\xAF"}})}) == bad("bad_text"));
  CHECK(refusal(classify, R"({"text": "cat", "image": "!"})") == bad("bad_image"));
  CHECK(refusal(classify, R"({"text": "cat", "image": "data:image/png,abc"})") == bad("bad_image"));
  CHECK(refusal(classify, R"({"image": ")" + to_base64("GIF89a") + "\"}") == bad("bad_image"));
  const std::string png = red_png(30);
  CHECK(refusal(classify, R"({"image": ")" + to_base64(png.substr(0, png.size() / 2)) + "\"}") ==
        bad("bad_image"));
  CHECK(refusal(classify, R"({"text": "cat", "topp": 1})") == bad("unknown_field"));
  // A very long name is cut before the search for the nearest field name, which would take too long.
  CHECK(refusal(classify, R"({"text": "cat", ")" + std::string(10'000'000, 'n') + "\": 1}") ==
        bad("unknown_field"));
  for (const char* top : {"0", "1.5", "\"3\"", "true", "1e30", "-1"})
    CHECK(refusal(classify, fmt::format(R"({{"text": "cat", "top": {}}})", top)) == bad("bad_option"));
  CHECK(refusal(caption, R"({"text": "cat"})") == bad("unwanted_field"));
  CHECK(refusal(caption, "{}") == bad("missing_field"));
  CHECK(refusal(generate, R"({"text": "cat", "seed": -1})") == bad("bad_option"));
  CHECK(refusal(generate, R"({"text": "cat", "seed": 18446744073709551615})") == bad("bad_option"));
  CHECK(refusal(generate, R"({"text": "cat", "count": 17})") == bad("bad_option"));
  CHECK(refusal(caption, R"({"image": ")" + to_base64(png) + R"(", "beam": 2, "top_p": 0.5})") ==
        bad("bad_option"));
  const InputShape texts{.tokenizer = &tokenizer(), .max_length = 6, .classifies_texts = true};
  CHECK(refusal(classify, R"({"image": "AAAA"})", texts) == bad("unwanted_field"));
  const InputShape images{.image = {4, 4, 1}, .classifies_images = true};
  CHECK(refusal(classify, R"({"text": "cat"})", images) == bad("unwanted_field"));
  CHECK_THROWS_WITH(of_json(classify, R"({"text": "cat", "topp": 1})"), Contains("did you mean top?"));
}

TEST_CASE("decoding waits for room for pixels, but texts do not wait", "[service]") {
  const Inputs inputs(kBoth, 1);
  std::optional<Gate::Pass> others(std::in_place, inputs.decoding(), Inputs::kMostPixelsAtOnce - 30 * 30 + 1);
  std::atomic<bool> forsaken = false;
  const auto read = [&](const std::string& body) {
    return inputs.read(TaskKind::classify, {"application/json", body, &forsaken});
  };
  const std::string body = R"({"image": ")" + to_base64(red_png(30)) + "\"}";
  std::future<Query> image = std::async(std::launch::async, read, body);
  while (inputs.decoding().waiting() == 0)
    REQUIRE(image.wait_for(std::chrono::milliseconds(1)) == std::future_status::timeout);
  CHECK_FALSE(read(R"({"text": "cat"})").tokens.empty());
  CHECK_THROWS_WITH(read(body), Contains("too many images wait"));
  others.reset();
  CHECK(image.get().pixels.size() == 48);
  forsaken = true;
  CHECK_THROWS_WITH(read(body), Contains("the client closed its connection"));
  others.emplace(inputs.decoding(), Inputs::kMostPixelsAtOnce);  // the images have released their pixels
}

TEST_CASE("an image header of 100 megapixels is refused before allocating memory", "[service]") {
  std::string png = red_png(2);
  png.replace(16, 8, std::string("\0\0\x27\x10\0\0\x27\x10", 8));  // 10000 x 10000
  CHECK(refusal(TaskKind::classify, R"({"image": ")" + to_base64(png) + "\"}") == bad("bad_image"));
}

}  // namespace
}  // namespace conclave::service
