#include "data/emoji.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <set>

#include "core/file.h"
#include "tests/data/temporary_directory.h"
#include "tests/fixtures/image_fixture.h"

using namespace conclave;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

namespace {

const std::string kNames =
    "# group: Smileys & Emotion\n"
    "# subgroup: face-smiling\n"
    "1F600          ; fully-qualified     # \xF0\x9F\x98\x80 E1.0 grinning face\n"
    "263A FE0F      ; fully-qualified     # \xE2\x98\xBA\xEF\xB8\x8F E0.6 smiling face\n"
    "263A           ; unqualified         # \xE2\x98\xBA E0.6 smiling face\n"
    "\n"
    "# subgroup: cat-face\r\n"
    "1F468 200D 1F9B0 ; fully-qualified   # x E11.0 man: red hair\r\n"
    "1F63A          ; fully-qualified     # \xF0\x9F\x98\xBA E0.6 grinning cat\r\n"
    "#EOF\n";

const std::string kAnnotations =
    "<?xml version=\"1.0\"?><!DOCTYPE ldml SYSTEM \"x.dtd\">\n"
    "<!-- <annotation cp=\"no\"> -->\n"
    "<ldml><identity><language type=\"en\"/></identity><annotations>\n"
    "<annotation cp=\"&amp;\">and | &lt;et&gt; |ampersand</annotation>\n"
    "<annotation cp=\"&amp;\" type=\"tts\">ampersand</annotation>\n"
    "<annotation  type=\"tts\" cp=\"b\">c</annotation>\n"
    "</annotations></ldml>\n";

std::string names_error(const std::string& content) {
  return error_of([&] { parse_emoji_names(content + "\n#EOF", "file"); });
}

std::string annotations_error(const std::string& content) {
  return error_of([&] { parse_annotations(content, "file"); });
}

std::string font_file() { return read_file(EmojiFiles().font, "install it"); }

}  // namespace

TEST_CASE("there are 1,377 emoji of one code point, all with an image, in 9 groups", "[data]") {
  BadInputs none;
  const ImageDataset data = read_emoji_dataset({.side = 8}, none);
  REQUIRE(data.class_names == std::vector<std::string>{"Smileys & Emotion", "People & Body",
                                                       "Animals & Nature", "Food & Drink", "Travel & Places",
                                                       "Activities", "Objects", "Symbols", "Flags"});
  std::vector<int> counts(9);
  std::set<std::string> texts;
  for (const ImageSplit* split : {&data.train, &data.validation, &data.test}) {
    CHECK(split->images.shape == ImageShape{8, 8, 3});
    CHECK(static_cast<std::size_t>(split->images.size()) == split->examples.size());
    for (const TextExample& example : split->examples) {
      ++counts[static_cast<std::size_t>(example.label)];
      texts.insert(example.text);
    }
  }
  CHECK(counts == std::vector<int>{160, 156, 148, 133, 218, 85, 261, 211, 5});
  CHECK(texts.size() == 1377);
  CHECK(texts.contains("grinning face: face, grin, grinning face"));
  CHECK(data.train.examples.size() == 1098);
  CHECK(data.validation.examples.size() == 136);
  CHECK(data.test.examples.size() == 143);
}

TEST_CASE("an emoji's split is decided by its code point, and its class may be the subgroup", "[data]") {
  const TemporaryDirectory folder;
  EmojiOptions options{.side = 4, .subgroups = true};
  options.files.names = folder.write("names.txt", kNames);
  BadInputs none;
  const ImageDataset data = read_emoji_dataset(options, none);
  CHECK(data.class_names == std::vector<std::string>{"face-smiling", "cat-face"});
  // zlib.crc32(b"1F600") % 10 is 9; of 263A and 1F63A it is 4 and 6.
  REQUIRE(data.test.examples.size() == 1);
  CHECK(data.test.examples[0].text.starts_with("grinning face"));
  CHECK(data.test.examples[0].label == 0);
  CHECK(data.validation.examples.empty());
  REQUIRE(data.train.examples.size() == 2);
  CHECK(data.train.examples[1].text.starts_with("grinning cat"));
  CHECK(data.train.examples[1].label == 1);
}

TEST_CASE("an emoji's image is the PNG in the font", "[data]") {
  const std::string bytes = read_file(CONCLAVE_FIXTURES "/images/font.ttf", "");
  const EmojiFont font(bytes, "font");
  // FreeType's pixels are premultiplied by alpha, so the images are equal only on a background.
  const Rgb background{255, 0, 100};
  for (const auto& [code, name] : {std::pair(U'\x1F600', "alpha"), std::pair(U'\x1F63A', "palette_alpha")})
    CHECK_THAT(to_rgb(font.image(code), background), IsImage(to_rgb(image_fixture(name), background), 1));
  CHECK_FALSE(font.has(U'a'));
}

TEST_CASE("an emoji bitmap whose size differs from the font's metrics is refused", "[data]") {
  std::string bytes = read_file(CONCLAVE_FIXTURES "/images/font.ttf", "");
  const std::size_t png = bytes.find("\x89PNG");
  --bytes[png - 9];  // the height of the first glyph
  const EmojiFont font(bytes, "font");
  CHECK_THAT(error_of([&] { font.image(0x1F600); }), StartsWith("font: no coloured bitmap of U+1F600"));

  const TemporaryDirectory folder;
  const EmojiFiles files{.font = folder.write("font.ttf", bytes), .names = folder.write("names", kNames)};
  BadInputs none, bad(true);
  CHECK_THAT(error_of([&] { read_emoji(files, none); }), Contains("no coloured bitmap of U+1F600"));
  REQUIRE(read_emoji(files, bad).size() == 1);  // only the cat is left
  CHECK(bad.count() == 1);
  CHECK_THAT(bad.first(), Contains("no coloured bitmap of U+1F600"));
}

TEST_CASE("Noto's emoji are square, with 4 empty columns at either side", "[data]") {
  const std::string bytes = font_file();
  const Image image = EmojiFont(bytes, "font").image(0x1F600);
  REQUIRE(image.shape == ImageShape{128, 136, 4});
  for (std::size_t y = 0; y < 128; ++y)
    for (const std::size_t x : {0, 1, 2, 3, 132, 133, 134, 135})
      REQUIRE(image.pixels[(y * 136 + x) * 4 + 3] == 0);
}

TEST_CASE("the names of emoji of one code point are read with their groups", "[data]") {
  const auto names = parse_emoji_names(kNames, "file");
  REQUIRE(names.size() == 3);
  CHECK(names[0].code == 0x1F600);
  CHECK(names[0].name == "grinning face");
  CHECK(names[0].group == "Smileys & Emotion");
  CHECK(names[0].subgroup == "face-smiling");
  CHECK(names[1].code == 0x263A);
  CHECK(names[2].name == "grinning cat");
  CHECK(names[2].subgroup == "cat-face");
}

TEST_CASE("a malformed line of emoji names is named by file and line", "[data]") {
  const std::string good = "# group: a\n# subgroup: b\n";
  CHECK(names_error(good + "1F600 ; fully-qualified # x E1.0 y") == "");
  for (const char* bad :
       {"1F600 ; fully-qualified # x E1.0 ", "1F600 ; fully-qualified # x 1.0 y", "1F600",
        "1F600 ; # x E1.0 y", "; fully-qualified # x E1.0 y", "G ; fully-qualified # x E1.0 y",
        "110000 ; fully-qualified # x E1.0 y", "1F600  1F601 ; fully-qualified # x E1.0 y",
        "-1 ; fully-qualified # x E1.0 y", "1F600 ; fully-qualified # \xFF E1.0 y"})
    CHECK_THAT(names_error(good + bad), StartsWith("file:3: "));
  CHECK_THAT(names_error("# group: a\n1F600 ; fully-qualified # x E1.0 y"), StartsWith("file:2: "));
}

TEST_CASE("keywords are those of annotations without a type", "[data]") {
  const auto annotations = parse_annotations(kAnnotations, "file");
  REQUIRE(annotations.size() == 1);
  CHECK(annotations.at("&") == std::vector<std::string>{"and", "<et>", "ampersand"});
}

TEST_CASE("annotations that are not XML are named by file and line", "[data]") {
  for (const char* bad :
       {"<", "<a", "<a b", "<a b=", "<a b=\"", "<a b=\"c\"", "<a b=c>", "<a =\"b\">", "<!-- never closed",
        "<? never closed", "<annotation cp=\"a\">b", "<annotation cp=\"a\">b<",
        "<annotation cp=\"a\">b</annotations>", "<annotation cp=\"a\"><b></annotation>",
        "<annotation cp=\"a\">b &c;</annotation>", "<annotation cp=\"&\">b</annotation>",
        "<annotation cp='a'>b</annotation>", "<a/ >", "\xFF"}) {
    CAPTURE(bad);
    CHECK_THAT(annotations_error(std::string("<ldml>\n\n") + bad), StartsWith("file:3: "));
  }
  CHECK_THAT(annotations_error("<annotation>a</annotation></ldml>"), Contains("without `cp`"));
}

TEST_CASE("truncated emoji names and annotations are refused at any length", "[data]") {
  for (std::size_t size = 0; size < kNames.size() - 1; ++size)  // the last newline may be missing
    REQUIRE_THAT(error_of([&] { parse_emoji_names(kNames.substr(0, size), "file"); }), StartsWith("file:"));
  for (std::size_t size = 0; size < kAnnotations.size() - 1; ++size)
    REQUIRE_THAT(annotations_error(kAnnotations.substr(0, size)), StartsWith("file:"));
}

TEST_CASE("a file that is not a font, is truncated, or has no colours is refused", "[data]") {
  const auto error = [](std::string_view bytes) {
    return error_of([&] {
      const EmojiFont font(bytes, "font");
      if (!font.has(0x1F600)) fail("font: no glyph");
      font.image(0x1F600);
    });
  };
  const std::string bytes = font_file();
  CHECK(error(bytes) == "");
  CHECK_THAT(error("no font"), StartsWith("font: not a font"));
  CHECK_THAT(error(""), StartsWith("font: not a font"));
  for (std::size_t size = 1; size < bytes.size(); size *= 3)
    CHECK_THAT(error(std::string_view(bytes).substr(0, size)), StartsWith("font: "));
  const std::string plain =
      read_file("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf", "install fonts-dejavu-core");
  CHECK_THAT(error(plain), StartsWith("font: not a font of coloured bitmaps"));
  CHECK_THAT(error_of([&] { EmojiFont(bytes, "font").image('\n'); }),
             Contains("no coloured bitmap of U+000A"));
}

TEST_CASE("missing files of emoji name the package to install", "[data]") {
  EmojiFiles files;
  files.annotations = "/nonexistent/en.xml";
  BadInputs none;
  CHECK_THAT(error_of([&] { read_emoji(files, none); }),
             Contains("/nonexistent/en.xml") && Contains("apt-get install unicode-cldr-core"));
}
