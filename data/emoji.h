// Emoji as a task of image and text together: Noto Color Emoji's pictures, CLDR's names and keywords for
// them, and the groups and subgroups that Unicode sorts them into. An emoji here is a single code point (a
// variation selector does not count), so that skin tones, genders and families are left out. Its split
// depends on its own code point alone, crc32("1F600") % 10 of it in upper-case hexadecimal: 0..7 train, 8
// validation, 9 test.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/bad_inputs.h"
#include "data/dataset.h"

namespace conclave {

/// Where Debian's packages fonts-noto-color-emoji, unicode-data and unicode-cldr-core put them.
struct EmojiFiles {
  std::string font = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf";
  std::string names = "/usr/share/unicode/emoji/emoji-test.txt";
  std::string annotations = "/usr/share/unicode/cldr/common/annotations/en.xml";
};

struct EmojiName {
  char32_t code = 0;
  std::string name, group, subgroup;  ///< "grinning face", "Smileys & Emotion", "face-smiling"
};

struct Emoji {
  EmojiName name;
  std::vector<std::string> keywords;  ///< may be none: CLDR's may be older than the names
  Image image;                        ///< as the font has it, with alpha
};

/// The fully qualified emoji of a single code point in an emoji-test.txt (UTS #51), in its order. Throws
/// Error with PATH:LINE for a line that is not of its form, and where the file's last line is missing.
std::vector<EmojiName> parse_emoji_names(std::string_view content, const std::string& path);

/// The keywords of each character (UTF-8) in a file of CLDR's annotations: the elements `<annotation
/// cp="...">a | b</annotation>` without `type`. Throws Error with PATH:LINE for what is not XML, and where
/// the file's end is missing.
std::map<std::string, std::vector<std::string>, std::less<>> parse_annotations(std::string_view content,
                                                                               const std::string& path);

/// A font of coloured bitmaps. For one thread.
class EmojiFont {
 public:
  /// `bytes` is a font file and must outlive this; throws Error, which begins with `name`, where it is none
  /// or has no bitmaps.
  EmojiFont(std::string_view bytes, std::string name);
  ~EmojiFont();
  EmojiFont(const EmojiFont&) = delete;
  EmojiFont& operator=(const EmojiFont&) = delete;

  bool has(char32_t code) const;
  /// [height, width, 4]; throws Error where the font has none for `code`, or a damaged one.
  Image image(char32_t code) const;

 private:
  struct Library;
  std::string name_;
  std::unique_ptr<Library> library_;
};

/// All emoji of the three files that have a picture, in the order of the names; of damaged pictures `bad`
/// decides.
std::vector<Emoji> read_emoji(const EmojiFiles& files, BadInputs& bad);

struct EmojiOptions {
  EmojiFiles files = {};
  std::int64_t side = 64;             ///< images are `side` x `side` pixels, in colour
  Rgb background = kWhiteBackground;  ///< behind the emoji
  bool subgroups = false;  ///< classes are the subgroups ("food-fruit"), not the groups ("Food & Drink")
};

/// read_emoji's pictures and, as texts, "name: keyword, keyword"; classes in the order of the names.
ImageDataset read_emoji_dataset(const EmojiOptions& options, BadInputs& bad);

}  // namespace conclave
