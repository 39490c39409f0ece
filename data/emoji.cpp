#include "data/emoji.h"

#include <ft2build.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <functional>
#include <utility>

#include "core/file.h"
#include "core/text.h"
#include "data/image_transform.h"
#include "data/stable_bucket.h"
#include FT_FREETYPE_H

namespace conclave {
namespace {

constexpr char32_t kEmojiPresentation = 0xFE0F;  // variation selector 16, which asks for the coloured form

std::int64_t line_of(std::string_view content, std::size_t offset) {
  return 1 + std::count(content.begin(), content.begin() + static_cast<std::ptrdiff_t>(offset), '\n');
}

void require_utf8(std::string_view content, const std::string& path) {
  const std::size_t invalid = find_invalid_utf8(content);
  if (invalid != std::string_view::npos)
    fail("{}:{}: not UTF-8; take the file from Unicode again", path, line_of(content, invalid));
}

std::string utf8(char32_t code) {
  const auto byte = [](char32_t lead, char32_t bits) { return static_cast<char>(lead | bits); };
  const auto more = [&](int shift) { return byte(0x80, code >> shift & 0x3F); };
  if (code < 0x80) return {byte(0, code)};
  if (code < 0x800) return {byte(0xC0, code >> 6), more(0)};
  if (code < 0x10000) return {byte(0xE0, code >> 12), more(6), more(0)};
  return {byte(0xF0, code >> 18), more(12), more(6), more(0)};
}

// Removes and returns the part of `text` before `separator`, and removes the separator; takes all of `text`
// if there is none.
std::string_view take(std::string_view& text, std::string_view separator) {
  const std::string_view piece = text.substr(0, text.find(separator));
  text.remove_prefix(std::min(piece.size() + separator.size(), text.size()));
  return piece;
}

// Parses code points like "1F600 FE0F "; empty if the text has another form.
std::vector<char32_t> parse_codes(std::string_view text) {
  std::vector<char32_t> codes;
  for (text = trimmed(text); !text.empty();) {
    const std::string_view digits = take(text, " ");
    std::uint32_t code = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
    if (error != std::errc() || end != digits.data() + digits.size() || code > 0x10FFFF) return {};
    codes.push_back(code);
  }
  return codes;
}

// A scanner for the part of XML that CLDR's files use: elements with attributes, comments, and text with the
// five predefined entities.
class XmlScanner {
 public:
  XmlScanner(std::string_view content, const std::string& path) : content_(content), path_(path) {}

  struct Element {
    std::string_view name;
    std::map<std::string_view, std::string> attributes;
    bool empty = false;  // <name/>
  };

  /// Reads the next start tag; false at the end of the content.
  bool next(Element& element) {
    while (true) {
      at_ = std::min(content_.find('<', at_), content_.size());
      if (at_ == content_.size()) return false;
      ++at_;
      if (skip("!--")) {
        until("-->");
      } else if (skip("?")) {
        until("?>");
      } else if (skip("!") || skip("/")) {  // <!DOCTYPE ...>, or an end tag
        until(">");
      } else {
        read(element);
        return true;
      }
    }
  }

  /// The text from the current position to the end tag `name`.
  std::string text(std::string_view name) {
    const std::string_view text = until("<");
    check(skip("/") && skip(name) && skip(">"), "expected text and then the element's end");
    return unescaped(text);
  }

 private:
  static constexpr std::string_view kBlanks = " \t\r\n";

  void check(bool holds, std::string_view problem) const {
    if (!holds) fail("{}:{}: not the XML of CLDR's annotations ({})", path_, line_of(content_, at_), problem);
  }
  bool skip(std::string_view expected) {
    const bool found = content_.substr(at_).starts_with(expected);
    if (found) at_ += expected.size();
    return found;
  }
  std::string_view until(std::string_view end) {
    const std::size_t found = content_.find(end, at_);
    check(found != std::string_view::npos, fmt::format("`{}` is missing", end));
    const std::string_view between = content_.substr(at_, found - at_);
    at_ = found + end.size();
    return between;
  }
  std::string_view name() {
    const std::size_t end = std::min(content_.find_first_of(" \t\r\n=/>\"'<", at_), content_.size());
    check(end > at_, "a name is missing");
    const std::string_view name = content_.substr(at_, end - at_);
    at_ = end;
    return name;
  }
  void skip_blanks() { at_ = std::min(content_.find_first_not_of(kBlanks, at_), content_.size()); }

  void read(Element& element) {
    element = {name(), {}, false};
    for (skip_blanks(); !skip(">"); skip_blanks()) {
      element.empty = skip("/>");
      if (element.empty) return;
      const std::string_view attribute = name();
      check(skip("=\""), "expected =\" after an attribute's name");
      element.attributes[attribute] = unescaped(until("\""));
    }
  }

  std::string unescaped(std::string_view text) const {
    constexpr std::array<std::pair<std::string_view, char>, 5> entities{
        {{"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&apos;", '\''}}};
    std::string plain;
    while (!text.empty()) {
      const auto entity =
          std::ranges::find_if(entities, [&](const auto& one) { return text.starts_with(one.first); });
      check(text[0] != '&' || entity != entities.end(), "an & that begins none of XML's five entities");
      plain += entity == entities.end() ? text[0] : entity->second;
      text.remove_prefix(entity == entities.end() ? 1 : entity->first.size());
    }
    return plain;
  }

  std::string_view content_;
  const std::string& path_;
  std::size_t at_ = 0;
};

}  // namespace

std::vector<EmojiName> parse_emoji_names(std::string_view content, const std::string& path) {
  require_utf8(content, path);
  std::vector<EmojiName> names;
  std::string group, subgroup;
  std::int64_t number = 0;
  const bool whole = trimmed(content, " \t\r\n").ends_with("#EOF");
  while (!content.empty()) {
    std::string_view line = trimmed(take(content, "\n"), " \t\r");
    ++number;
    const auto heading = [&](std::string_view prefix, std::string& into) {
      if (line.starts_with(prefix)) into = trimmed(line.substr(prefix.size()));
    };
    heading("# group:", group);
    heading("# subgroup:", subgroup);
    if (line.empty() || line[0] == '#') continue;
    // 263A FE0F ; fully-qualified # (the emoji itself) E0.6 smiling face
    std::vector<char32_t> codes = parse_codes(take(line, ";"));
    const std::string_view status = trimmed(take(line, "#"));
    line = trimmed(line);
    take(line, " ");
    const std::string_view version = take(line, " "), name = trimmed(line);
    require(
        !codes.empty() && !status.empty() && version.starts_with('E') && !name.empty() && !group.empty() &&
            !subgroup.empty(),
        "{}:{}: expected `CODE POINTS ; STATUS # EMOJI EVERSION NAME` below a group and a subgroup; take the "
        "file from Unicode again",
        path, number);
    std::erase(codes, kEmojiPresentation);
    if (status == "fully-qualified" && codes.size() == 1)
      names.push_back({codes[0], std::string(name), group, subgroup});
  }
  require(whole, "{}: does not end in #EOF; it is truncated, or no emoji-test.txt", path);
  return names;
}

std::map<std::string, std::vector<std::string>, std::less<>> parse_annotations(std::string_view content,
                                                                               const std::string& path) {
  require_utf8(content, path);
  std::map<std::string, std::vector<std::string>, std::less<>> annotations;
  XmlScanner xml(content, path);
  for (XmlScanner::Element element; xml.next(element);) {
    if (element.name != "annotation" || element.empty) continue;
    const std::string text = xml.text(element.name);
    if (element.attributes.contains("type")) continue;  // type="tts": the name, not keywords
    const auto character = element.attributes.find("cp");
    require(character != element.attributes.end(),
            "{}: an annotation without `cp`; take the file from CLDR again", path);
    std::vector<std::string>& keywords = annotations[character->second];
    for (std::string_view rest = text; !rest.empty();)
      if (const auto keyword = trimmed(take(rest, "|")); !keyword.empty()) keywords.emplace_back(keyword);
  }
  require(trimmed(content, " \t\r\n").ends_with("</ldml>"),
          "{}: does not end in </ldml>; it is truncated, or not of CLDR", path);
  return annotations;
}

struct EmojiFont::Library {
  FT_Library library = nullptr;
  FT_Face face = nullptr;

  Library() = default;
  ~Library() { FT_Done_FreeType(library); }  // also frees the face
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;
};

EmojiFont::EmojiFont(std::string_view bytes, std::string name)
    : name_(std::move(name)), library_(std::make_unique<Library>()) {
  require(FT_Init_FreeType(&library_->library) == 0, "{}: FreeType cannot be initialized", name_);
  const auto* data = reinterpret_cast<const FT_Byte*>(bytes.data());
  require(FT_New_Memory_Face(library_->library, data, static_cast<FT_Long>(bytes.size()), 0,
                             &library_->face) == 0,
          "{}: not a font that FreeType can read", name_);
  require(FT_HAS_COLOR(library_->face) && FT_HAS_FIXED_SIZES(library_->face) &&
              FT_Select_Size(library_->face, 0) == 0,
          "{}: not a font of coloured bitmaps (CBDT), as Noto Color Emoji is", name_);
}

EmojiFont::~EmojiFont() = default;

bool EmojiFont::has(char32_t code) const { return FT_Get_Char_Index(library_->face, code) != 0; }

Image EmojiFont::image(char32_t code) const {
  const FT_GlyphSlot glyph = library_->face->glyph;
  const FT_Bitmap& bitmap = glyph->bitmap;
  Image image;
  if (has(code) && FT_Load_Char(library_->face, code, FT_LOAD_COLOR) == 0 &&
      glyph->format == FT_GLYPH_FORMAT_BITMAP && bitmap.pixel_mode == FT_PIXEL_MODE_BGRA)
    image.shape = {bitmap.rows, bitmap.width, 4};
  image.pixels.resize(static_cast<std::size_t>(image.shape.size()));
  std::uint8_t* to = image.pixels.data();
  bool visible = false;
  for (std::int64_t y = 0; y < image.shape.height; ++y) {
    const unsigned char* pixel = bitmap.buffer + y * bitmap.pitch;
    for (std::int64_t x = 0; x < image.shape.width; ++x, pixel += 4, to += 4) {
      // FreeType's pixels are BGRA, premultiplied by alpha.
      const unsigned alpha = pixel[3];
      for (int c = 0; c < 3; ++c)
        to[c] = static_cast<std::uint8_t>(
            alpha == 0 ? 0 : std::min(255u, (pixel[2 - c] * 255u + alpha / 2) / alpha));
      to[3] = pixel[3];
      visible |= alpha > 0;
    }
  }
  // FreeType returns an empty bitmap if the size of its PNG differs from what the font declares.
  require(visible, "{}: no coloured bitmap of U+{:04X} that FreeType can read", name_,
          static_cast<std::uint32_t>(code));
  return image;
}

std::vector<Emoji> read_emoji(const EmojiFiles& files, BadInputs& bad) {
  const std::string names =
      read_file(files.names, "emoji-test.txt comes with `apt-get install unicode-data`");
  const std::string annotations =
      read_file(files.annotations, "CLDR's annotations come with `apt-get install unicode-cldr-core`");
  const std::string bytes =
      read_file(files.font, "Noto Color Emoji comes with `apt-get install fonts-noto-color-emoji`");
  const auto keywords = parse_annotations(annotations, files.annotations);
  const EmojiFont font(bytes, files.font);
  std::vector<Emoji> emoji;
  for (EmojiName& name : parse_emoji_names(names, files.names)) {
    if (!font.has(name.code)) continue;
    const auto found = keywords.find(utf8(name.code));
    bad.attempt([&] {
      Image image = font.image(name.code);
      emoji.push_back({std::move(name), found == keywords.end() ? std::vector<std::string>() : found->second,
                       std::move(image)});
    });
  }
  return emoji;
}

ImageDataset read_emoji_dataset(const EmojiOptions& options, BadInputs& bad) {
  ImageDataset data;
  for (const Emoji& emoji : read_emoji(options.files, bad)) {
    const std::string& name = options.subgroups ? emoji.name.subgroup : emoji.name.group;
    const auto found = std::ranges::find(data.class_names, name);
    const auto label = static_cast<std::int32_t>(found - data.class_names.begin());
    if (found == data.class_names.end()) data.class_names.push_back(name);

    const std::string code = fmt::format("{:X}", static_cast<std::uint32_t>(emoji.name.code));
    const std::uint32_t bucket = bucket_of(code, 10);
    ImageSplit& split = bucket == 9 ? data.test : bucket == 8 ? data.validation : data.train;
    std::string text = emoji.name.name;
    for (std::size_t i = 0; i < emoji.keywords.size(); ++i)
      text += (i == 0 ? ": " : ", ") + emoji.keywords[i];
    split.examples.push_back({.text = std::move(text), .label = label, .captions = {emoji.name.name}});

    // Noto's bitmaps are 136 x 128 pixels with 4 empty columns on either side, which the crop to a square
    // removes.
    split.images.append(fit_image(emoji.image, {options.side, options.side, 3}, options.background),
                        options.files.font);
  }
  require(!data.train.examples.empty(), "{}: has none of the emoji in {}", options.files.font,
          options.files.names);
  return data;
}

}  // namespace conclave
