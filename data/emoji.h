// Emoji as a data set of images and texts: pictures from Noto Color Emoji, names from Unicode, keywords from
// CLDR, and as classes the groups or subgroups that Unicode sorts emoji into. Only emoji of a single code
// point are used (variation selectors do not count), so skin tones, genders and families are left out. An
// emoji's split depends on its code point alone: crc32 of the code point in upper-case hexadecimal, e.g.
// crc32("1F600"), modulo 10: 0..7 train, 8 validation, 9 test.
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

/// Paths at which Debian's packages fonts-noto-color-emoji, unicode-data and unicode-cldr-core install the
/// files.
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
  std::vector<std::string> keywords;  ///< may be empty: CLDR may be older than the names
  Image image;                        ///< bitmap of the font, with alpha
};

/// The fully qualified emoji of a single code point in an emoji-test.txt (UTS #51), in the order of the file.
/// Throws Error with PATH:LINE for a malformed line, and Error with PATH if the file's last line, #EOF, is
/// missing.
std::vector<EmojiName> parse_emoji_names(std::string_view content, const std::string& path);

/// The keywords of each character (in UTF-8) in a file of CLDR's annotations, from the elements `<annotation
/// cp="...">a | b</annotation>` without `type`. Throws Error with PATH:LINE for malformed XML, and Error with
/// PATH if `cp` or the end of the file is missing.
std::map<std::string, std::vector<std::string>, std::less<>> parse_annotations(std::string_view content,
                                                                               const std::string& path);

/// A font of coloured bitmaps. Not thread-safe.
class EmojiFont {
 public:
  /// `bytes` is a font file and must outlive this object. Throws Error, with a message that begins with
  /// `name`, if `bytes` is not a font or has no coloured bitmaps.
  EmojiFont(std::string_view bytes, std::string name);
  ~EmojiFont();
  EmojiFont(const EmojiFont&) = delete;
  EmojiFont& operator=(const EmojiFont&) = delete;

  bool has(char32_t code) const;
  /// The bitmap of `code`, [height, width, 4]. Throws Error if the font has none or the bitmap is damaged.
  Image image(char32_t code) const;

 private:
  struct Library;
  std::string name_;
  std::unique_ptr<Library> library_;
};

/// All emoji in the names file that the font has a picture of, in the order of the names. `bad` decides
/// whether a damaged picture is an error or skipped.
std::vector<Emoji> read_emoji(const EmojiFiles& files, BadInputs& bad);

struct EmojiOptions {
  EmojiFiles files = {};
  std::int64_t side = 64;             ///< images are `side` x `side` RGB pixels
  Rgb background = kWhiteBackground;  ///< behind the emoji
  bool subgroups = false;  ///< classes are the subgroups ("food-fruit"), not the groups ("Food & Drink")
};

/// The data set of read_emoji's pictures, with texts "name: keyword, keyword". Classes are numbered in the
/// order in which the names file mentions them.
ImageDataset read_emoji_dataset(const EmojiOptions& options, BadInputs& bad);

}  // namespace conclave
