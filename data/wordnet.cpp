#include "data/wordnet.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "data/file.h"

namespace conclave {
namespace {

// Index = lex_filenum. Each part of speech owns some of the numbers (see kParts).
constexpr std::array<const char*, 45> kLexicographerFiles{
    "adj.all",          "adj.pert",           "adv.all",
    "noun.Tops",        "noun.act",           "noun.animal",
    "noun.artifact",    "noun.attribute",     "noun.body",
    "noun.cognition",   "noun.communication", "noun.event",
    "noun.feeling",     "noun.food",          "noun.group",
    "noun.location",    "noun.motive",        "noun.object",
    "noun.person",      "noun.phenomenon",    "noun.plant",
    "noun.possession",  "noun.process",       "noun.quantity",
    "noun.relation",    "noun.shape",         "noun.state",
    "noun.substance",   "noun.time",          "verb.body",
    "verb.change",      "verb.cognition",     "verb.communication",
    "verb.competition", "verb.consumption",   "verb.contact",
    "verb.creation",    "verb.emotion",       "verb.motion",
    "verb.perception",  "verb.possession",    "verb.social",
    "verb.stative",     "verb.weather",       "adj.ppl"};
constexpr std::int32_t kFirstNoun = 3, kNouns = 26;

struct PartOfSpeech {
  std::string_view name;
  std::string_view types;  // the ss_types its lines may have; "s" is an adjective satellite
};
constexpr std::array<PartOfSpeech, 4> kParts{{{"noun", "n"}, {"verb", "v"}, {"adj", "as"}, {"adv", "r"}}};

bool is_digit(char c) { return c >= '0' && c <= '9'; }

struct Synset {
  std::string_view offset;
  std::int32_t lexicographer_file = 0;
  std::string words;
  std::string_view gloss;
};

// "03 hot_dog 0 red_hot 1 frank(p) 2 ..." becomes "hot dog, red hot, frank"; false where it is not of this
// form.
bool parse_words(std::string_view line, std::string& words) {
  std::size_t count = 0;
  const auto [rest, error] =
      std::from_chars(line.data(), line.data() + std::min<std::size_t>(line.size(), 2), count, 16);
  if (error != std::errc() || rest != line.data() + 2 || count == 0) return false;
  line.remove_prefix(2);
  words.clear();
  for (std::size_t i = 0; i < count; ++i) {
    if (!line.starts_with(' ')) return false;
    line.remove_prefix(1);
    const std::size_t space = line.find(' ');  // before the lex_id, which is one hexadecimal digit
    if (space == 0 || space == std::string_view::npos || space + 2 > line.size()) return false;
    const std::string_view word = line.substr(0, space);
    if (i > 0) words += ", ";
    words +=
        word.substr(0, word.find('(', 1));  // an adjective may end in a marker of its place: (p), (a), (ip)
    line.remove_prefix(space + 2);
  }
  std::ranges::replace(words, '_', ' ');
  return line.starts_with(' ');
}

// "offset lex_filenum ss_type ... | gloss"; false where the line is not of this form.
bool parse(std::string_view line, const PartOfSpeech& part, Synset& synset) {
  const std::size_t bar = line.find("| ");
  if (bar == std::string_view::npos || bar < 14) return false;
  if (!std::all_of(line.begin(), line.begin() + 8, is_digit) || line[8] != ' ') return false;
  if (!is_digit(line[9]) || !is_digit(line[10]) || line[11] != ' ') return false;
  if (part.types.find(line[12]) == std::string_view::npos || line[13] != ' ') return false;
  synset.offset = line.substr(0, 8);
  const int number = (line[9] - '0') * 10 + (line[10] - '0');
  if (number >= static_cast<int>(kLexicographerFiles.size())) return false;
  const std::string_view name = kLexicographerFiles[static_cast<std::size_t>(number)];
  if (name.substr(0, name.find('.')) != part.name) return false;
  synset.lexicographer_file = number;
  if (!parse_words(line.substr(14, bar - 14), synset.words)) return false;
  const std::string_view gloss = line.substr(bar + 2);
  const std::size_t first = gloss.find_first_not_of(" \t\r"), last = gloss.find_last_not_of(" \t\r");
  if (first == std::string_view::npos) return false;
  synset.gloss = gloss.substr(first, last - first + 1);
  return true;
}

std::vector<TextExample>& split_of(TextDataset& data, std::string_view part, std::string_view offset) {
  const std::string name = std::string(part) + std::string(offset);
  const auto bucket =
      crc32(0, reinterpret_cast<const unsigned char*>(name.data()), static_cast<unsigned>(name.size())) % 20;
  return bucket < 18 ? data.train : bucket == 18 ? data.validation : data.test;
}

void read_part(const std::string& directory, const PartOfSpeech& part, std::int32_t first_label,
               bool synset_words, TextDataset& data) {
  const std::string path = directory + "/data." + std::string(part.name);
  const std::string content =
      read_file(path, "WordNet comes with `apt-get install wordnet-base`, into /usr/share/wordnet");
  const std::size_t invalid = find_invalid_utf8(content);
  std::int64_t number = 0;
  for (std::size_t begin = 0; begin < content.size();) {
    const std::size_t end = std::min(content.find('\n', begin), content.size());
    const std::string_view line(content.data() + begin, end - begin);
    ++number;
    require(invalid >= end || invalid < begin, "{}:{}: not UTF-8; reinstall wordnet-base", path, number);
    begin = end + 1;
    if (line.starts_with("  ")) continue;  // the licence
    Synset synset;
    require(parse(line, part, synset),
            "{}:{}: expected `offset lex_filenum ss_type ... | gloss` of a {} synset, got `{}`; reinstall "
            "wordnet-base",
            path, number, part.name, line.substr(0, 60));
    auto& split = split_of(data, part.name, synset.offset);
    const std::int32_t label = synset.lexicographer_file - first_label;
    split.push_back({std::string(synset.gloss), label});
    if (synset_words && &split == &data.train) split.push_back({std::move(synset.words), label});
  }
}

}  // namespace

TextDataset read_wordnet(const std::string& directory, std::string_view classes, bool synset_words) {
  require(classes == "noun" || classes == "all",
          "read_wordnet: classes is `{}`; choose `noun` (26 classes) or `all` (45)", classes);
  const bool nouns = classes == "noun";
  const auto first = kLexicographerFiles.begin() + (nouns ? kFirstNoun : 0);
  TextDataset data;
  data.class_names.assign(first, nouns ? first + kNouns : kLexicographerFiles.end());
  for (const PartOfSpeech& part : kParts)
    if (!nouns || part.name == "noun") read_part(directory, part, nouns ? kFirstNoun : 0, synset_words, data);
  return data;
}

}  // namespace conclave
