#include "data/wordnet.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <set>

#include "core/file.h"
#include "core/spelling.h"
#include "core/text.h"
#include "data/stable_bucket.h"

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
  std::string_view types;  // ss_types allowed in its lines; "s" is an adjective satellite
};
constexpr std::array<PartOfSpeech, 4> kParts{{{"noun", "n"}, {"verb", "v"}, {"adj", "as"}, {"adv", "r"}}};

bool is_digit(char c) { return c >= '0' && c <= '9'; }

struct Synset {
  std::string_view offset;
  std::int32_t lexicographer_file = 0;
  std::string words;
  std::vector<std::string_view> topics;  // offsets of the nouns that `;c` pointers name as topics
  std::string_view gloss;
};

// "03 hot_dog 0 red_hot 1 frank(p) 2 ..." becomes "hot dog, red hot, frank"; false if the line has another
// form. Leaves the rest of the line in `line`.
bool parse_words(std::string_view& line, std::string& words) {
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
    words += word.substr(0, word.find('(', 1));  // adjectives may end in a marker: (p), (a), (ip)
    line.remove_prefix(space + 2);
  }
  std::ranges::replace(words, '_', ' ');
  return line.starts_with(' ');
}

// Removes the first blank-separated field from `line` and returns it.
std::string_view take_field(std::string_view& line) {
  line.remove_prefix(std::min(line.size(), line.find_first_not_of(' ')));
  const std::string_view found = line.substr(0, line.find(' '));
  line.remove_prefix(found.size());
  return found;
}

bool is_offset(std::string_view field) { return field.size() == 8 && std::ranges::all_of(field, is_digit); }

// Parses " 002 @ 00001740 n 0000 ;c 06043075 n 0000 " (symbol, offset, part of speech, source and target
// words) into the topics "06043075". All topics are nouns.
bool parse_topics(std::string_view line, std::vector<std::string_view>& topics) {
  const std::string_view digits = take_field(line);
  std::size_t count = 0;
  const auto [rest, error] = std::from_chars(digits.data(), digits.data() + digits.size(), count);
  if (digits.size() != 3 || error != std::errc() || rest != digits.data() + 3) return false;
  for (std::size_t i = 0; i < count; ++i) {
    const std::string_view symbol = take_field(line), offset = take_field(line);
    const std::string_view part = take_field(line), words = take_field(line);
    if (!is_offset(offset) || words.size() != 4) return false;
    if (symbol == ";c" && part == "n") topics.push_back(offset);
  }
  return true;
}

// Parses "offset lex_filenum ss_type ... | gloss"; false if the line has another form.
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
  std::string_view rest = line.substr(14, bar - 14);
  if (!parse_words(rest, synset.words) || !parse_topics(rest, synset.topics)) return false;
  synset.gloss = trimmed(line.substr(bar + 2), " \t\r");
  return !synset.gloss.empty();
}

std::vector<TextExample>& split_of(TextDataset& data, std::string_view part, std::string_view offset) {
  const std::string name = std::string(part) + std::string(offset);
  const std::uint32_t bucket = bucket_of(name, 20);
  return bucket < 18 ? data.train : bucket == 18 ? data.validation : data.test;
}

// Calls visit(line, line number) for every line of a WordNet file except those of the licence.
template <class Visit>
void for_each_line(const std::string& path, Visit visit) {
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
    if (!line.starts_with("  ")) visit(line, number);
  }
}

// Calls visit(synset) for every synset of a part of speech. The views in the synset are valid only during the
// call.
template <class Visit>
void for_each_synset(const std::string& directory, const PartOfSpeech& part, Visit visit) {
  const std::string path = directory + "/data." + std::string(part.name);
  for_each_line(path, [&](std::string_view line, std::int64_t number) {
    Synset synset;
    require(parse(line, part, synset),
            "{}:{}: expected `offset lex_filenum ss_type ... | gloss` of a {} synset, got `{}`; reinstall "
            "wordnet-base",
            path, number, part.name, line.substr(0, 60));
    visit(synset);
  });
}

std::vector<std::string> split_list(std::string_view list) {
  std::vector<std::string> items;
  while (!list.empty()) {
    const std::string_view item = list.substr(0, list.find(','));
    list.remove_prefix(std::min(item.size() + 1, list.size()));
    if (const auto name = trimmed(item); !name.empty()) items.emplace_back(name);
  }
  return items;
}

// The form in which names are compared: "Computer_Science" becomes "computer science".
std::string plain(std::string_view name) {
  std::string text(name);
  for (char& c : text) {
    if (c == '_') c = ' ';
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

// What the user's list of domain names refers to.
struct Domain {
  std::set<std::int32_t> lexicographer_files;
  std::set<std::string, std::less<>> topics;  // offsets

  bool has(const Synset& synset) const {
    return lexicographer_files.contains(synset.lexicographer_file) ||
           std::ranges::any_of(synset.topics, [&](std::string_view topic) { return topics.contains(topic); });
  }
};

Domain find_domain(const std::string& directory, std::span<const PartOfSpeech> parts, std::string_view list) {
  std::map<std::string, std::string, std::less<>> words;  // words of each noun, by offset
  std::set<std::string, std::less<>> topics;              // offsets
  for (const PartOfSpeech& part : parts)
    for_each_synset(directory, part, [&](const Synset& synset) {
      topics.insert(synset.topics.begin(), synset.topics.end());
      if (part.name == "noun") words.emplace(synset.offset, plain(synset.words));
    });
  std::multimap<std::string, std::string, std::less<>> offsets;  // offsets of topics, by word
  for (const std::string& topic : topics)
    for (const std::string& word : split_list(words[topic])) offsets.emplace(word, topic);
  std::map<std::string, std::int32_t, std::less<>> files;
  for (std::size_t i = 0; i < kLexicographerFiles.size(); ++i) {
    const std::string_view name = kLexicographerFiles[i];
    if (std::ranges::any_of(parts, [&](const auto& part) { return name.starts_with(part.name); }))
      files.emplace(plain(name), static_cast<std::int32_t>(i));
  }

  Domain domain;
  for (const std::string& given : split_list(list)) {
    const std::string name = plain(given);
    const auto [first, last] = offsets.equal_range(name);
    for (auto topic = first; topic != last; ++topic) domain.topics.insert(topic->second);
    if (const auto file = files.find(name); file != files.end())
      domain.lexicographer_files.insert(file->second);
    else if (first == last) {
      std::set<std::pair<std::size_t, std::string_view>> near;
      for (const auto& [word, offset] : offsets) near.emplace(edit_distance(name, word), word);
      for (const auto& [file_name, number] : files) near.emplace(edit_distance(name, file_name), file_name);
      std::vector<std::string_view> nearest;
      for (const auto& [distance, candidate] : near)
        if (nearest.size() < 4) nearest.push_back(candidate);
      fail(
          "data.domain: `{}` is neither a topic of these synsets nor a lexicographer file; near it are: {}. "
          "{}/data.noun has the topics, `man 5 lexnames` the files",
          given, fmt::join(nearest, ", "), directory);
    }
  }
  return domain;
}

// From a line of index.noun, "flip-flop n 4 3 @ ~ + 4 0 05789808 03364008 03363887 00439749 ", the offsets of
// the senses, first sense first; empty if the line has another form.
std::vector<std::string> parse_senses(std::string_view line) {
  std::vector<std::string_view> fields;
  for (auto field = take_field(line); !field.empty(); field = take_field(line)) fields.push_back(field);
  std::size_t senses = 0;
  if (fields.size() < 3) return {};
  std::from_chars(fields[2].data(), fields[2].data() + fields[2].size(), senses);
  if (senses == 0 || fields.size() < 6 + senses) return {};
  const auto last = std::span(fields).last(senses);
  if (!std::ranges::all_of(last, is_offset)) return {};
  return {last.begin(), last.end()};
}

// The gloss up to its first example, `; "he stuffed his laundry into a large bag"`.
std::string definition_of(std::string_view gloss) {
  return std::string(trimmed(gloss.substr(0, gloss.find('"')), "; "));
}

}  // namespace

TextDataset read_wordnet(const std::string& directory, std::string_view classes, bool synset_words,
                         std::string_view domain) {
  require(classes == "noun" || classes == "all",
          "read_wordnet: classes is `{}`; choose `noun` (26 classes) or `all` (45)", classes);
  const bool nouns = classes == "noun";
  const auto first = kLexicographerFiles.begin() + (nouns ? kFirstNoun : 0);
  TextDataset data;
  data.class_names.assign(first, nouns ? first + kNouns : kLexicographerFiles.end());
  const auto parts = std::span(kParts).first(nouns ? 1 : kParts.size());
  const Domain found = domain.empty() ? Domain() : find_domain(directory, parts, domain);
  for (const PartOfSpeech& part : parts)
    for_each_synset(directory, part, [&](const Synset& synset) {
      auto& split = split_of(data, part.name, synset.offset);
      const std::int32_t label = synset.lexicographer_file - (nouns ? kFirstNoun : 0);
      const bool in_domain = found.has(synset);
      split.push_back({std::string(synset.gloss), label, in_domain});
      if (synset_words && &split == &data.train) split.push_back({synset.words, label, in_domain});
    });
  return data;
}

std::vector<std::string> read_definitions(const std::string& directory, std::string_view lexicographer_file,
                                          std::span<const std::string_view> words) {
  std::map<std::string, std::vector<std::string>, std::less<>> senses;  // offsets of each word's senses
  for (const std::string_view word : words) senses.emplace(plain(word), std::vector<std::string>());
  const std::string index = directory + "/index.noun";
  for_each_line(index, [&](std::string_view line, std::int64_t number) {
    const auto found = senses.find(plain(line.substr(0, line.find(' '))));
    if (found == senses.end()) return;
    found->second = parse_senses(line);
    require(!found->second.empty(),
            "{}:{}: expected `lemma n synset_cnt ... synset_offset...`, got `{}`; reinstall wordnet-base",
            index, number, line.substr(0, 60));
  });
  std::map<std::string, std::string, std::less<>> definitions;  // by offset
  for (const auto& [word, offsets] : senses)
    for (const std::string& offset : offsets) definitions.emplace(offset, "");
  for_each_synset(directory, kParts[0], [&](const Synset& synset) {
    const auto found = definitions.find(synset.offset);
    const auto file = static_cast<std::size_t>(synset.lexicographer_file);
    if (found != definitions.end() && kLexicographerFiles[file] == lexicographer_file)
      found->second = definition_of(synset.gloss);
  });
  std::vector<std::string> read;
  for (const std::string_view word : words) {
    const std::vector<std::string>& offsets = senses[plain(word)];
    const auto first =
        std::ranges::find_if(offsets, [&](const auto& offset) { return !definitions[offset].empty(); });
    require(first != offsets.end(),
            "{}: `{}` has no sense that {}/data.noun defines in {}; reinstall wordnet-base", index, word,
            directory, lexicographer_file);
    read.push_back(definitions[*first]);
  }
  return read;
}

}  // namespace conclave
