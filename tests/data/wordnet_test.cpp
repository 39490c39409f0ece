#include "data/wordnet.h"

#include <catch2/catch.hpp>
#include <set>

#include "tests/data/temporary_directory.h"

using namespace conclave;
using Catch::Matchers::Contains;

namespace {

const std::string kGood = "00001740 03 n 01 entity 0 001 ~ 00001930 n 0000 | that which is; \"a | b\"  \n";

std::string wordnet_error(const std::string& content) {
  const TemporaryDirectory folder;
  folder.write("data.noun", content);
  return error_of([&] { read_wordnet(folder.path(), "noun"); });
}

}  // namespace

TEST_CASE("WordNet's nouns have 26 classes and a fixed split", "[data]") {
  const TextDataset data = read_wordnet(kWordNetDirectory, "noun");
  CHECK(data.train.size() == 73'636);
  CHECK(data.test.size() == 4'287);
  CHECK(data.train.size() + data.validation.size() + data.test.size() == 82'115);
  REQUIRE(data.class_names.size() == 26);
  CHECK(data.class_names.front() == "noun.Tops");
  CHECK(data.class_names[2] == "noun.animal");
  CHECK(data.class_names.back() == "noun.time");
  std::set<std::int32_t> labels;
  for (const TextExample& example : data.train) labels.insert(example.label);
  CHECK(labels.size() == 26);
  CHECK(*labels.begin() == 0);
  CHECK(*labels.rbegin() == 25);
}

TEST_CASE("all of WordNet is 45 classes", "[data]") {
  const TextDataset data = read_wordnet(kWordNetDirectory, "all");
  CHECK(data.train.size() == 105'605);
  CHECK(data.test.size() == 6'100);
  CHECK(data.train.size() + data.validation.size() + data.test.size() == 117'659);
  REQUIRE(data.class_names.size() == 45);
  CHECK(data.class_names[2] == "adv.all");
  CHECK(data.class_names[44] == "adj.ppl");
}

TEST_CASE("a gloss is the trimmed text after the first bar, with labels from 0", "[data]") {
  const TemporaryDirectory folder;
  folder.write("data.noun", "  1 the licence\n" + kGood);
  const TextDataset data = read_wordnet(folder.path(), "noun");
  REQUIRE(data.train.size() + data.validation.size() + data.test.size() == 1);
  const auto& example = !data.train.empty()  ? data.train[0]
                        : !data.test.empty() ? data.test[0]
                                             : data.validation[0];
  CHECK(example.text == "that which is; \"a | b\"");
  CHECK(example.label == 0);
}

TEST_CASE("words of training synsets are added as texts, those of other splits are not", "[data]") {
  const TextDataset glosses = read_wordnet(kWordNetDirectory, "all");
  const TextDataset data = read_wordnet(kWordNetDirectory, "all", true);
  CHECK(data.validation.size() == glosses.validation.size());
  CHECK(data.test.size() == glosses.test.size());
  REQUIRE(data.train.size() == 2 * glosses.train.size());
  std::set<std::string> words;
  for (std::size_t i = 0; i < glosses.train.size(); ++i) {
    REQUIRE(data.train[2 * i].text == glosses.train[i].text);
    REQUIRE(data.train[2 * i + 1].label == glosses.train[i].label);
    words.insert(data.train[2 * i + 1].text);
  }
  CHECK_FALSE(words.contains("car, auto, automobile, machine, motorcar"));  // a synset of validation
  CHECK(words.contains("fait accompli, accomplished fact"));
  CHECK(words.contains("galore"));  // "galore(ip)" in data.adj
  CHECK(std::ranges::none_of(words, [](const std::string& text) { return text.find('_') != text.npos; }));
}

TEST_CASE("a text is in the domain by its synset's topic or lexicographer file", "[data]") {
  const TemporaryDirectory folder;
  folder.write("data.noun",
               "00000001 09 n 03 medicine 0 medical_specialty 0 Galen 0 000 | the topic itself\n"
               "00000002 09 n 01 law 1 000 | another topic\n"
               "00000003 26 n 01 a 0 002 @ 00000001 n 0000 ;c 00000001 n 0000 | points to it as its topic\n"
               "00000004 26 n 01 b 0 001 @ 00000001 n 0000 | points to it otherwise\n"
               "00000005 26 n 01 c 0 002 ;c 00000002 n 0000 ;u 00000001 n 0000 | of law\n"
               "00000006 08 n 01 d 0 000 | part of a body\n");
  const auto in_domain = [&](const char* domain) {
    const TextDataset data = read_wordnet(folder.path(), "noun", false, domain);
    std::set<std::string> texts;
    for (const auto* split : {&data.train, &data.validation, &data.test})
      for (const TextExample& example : *split)
        if (example.in_domain) texts.insert(example.text);
    return texts;
  };
  using Texts = std::set<std::string>;
  CHECK(in_domain("") == Texts{});
  CHECK(in_domain("medicine") == Texts{"points to it as its topic"});
  CHECK(in_domain("Medical_specialty,galen") == Texts{"points to it as its topic"});
  CHECK(in_domain("noun.body") == Texts{"part of a body"});
  CHECK(in_domain(" medical specialty , law,noun.body") ==
        Texts{"points to it as its topic", "of law", "part of a body"});

  CHECK_THAT(error_of([&] { in_domain("law, medicin"); }),
             Contains("data.domain: `medicin`") && Contains("near it are: medicine, "));
  CHECK_THAT(error_of([&] { in_domain("noun.bdy"); }), Contains("near it are: noun.body, "));
  CHECK_THAT(error_of([&] { in_domain("verb.body"); }), Contains("`verb.body`"));  // only nouns are read
  CHECK_THAT(error_of([&] { in_domain("a"); }),
             Contains("`a`"));  // a word that is not the topic of any synset
}

TEST_CASE("medicine, anatomy and noun.body are a fortieth of WordNet's nouns", "[data]") {
  const TextDataset data = read_wordnet(kWordNetDirectory, "noun", true, "medicine, anatomy, noun.body");
  std::int64_t glosses = 0, words = 0;
  for (std::size_t i = 0; i < data.train.size(); i += 2) {
    glosses += data.train[i].in_domain;
    words += data.train[i + 1].in_domain;
  }
  CHECK(glosses == words);
  for (const auto* split : {&data.validation, &data.test})
    glosses += std::ranges::count_if(*split, [](const auto& example) { return example.in_domain; });
  CHECK(glosses == 2064);
}

TEST_CASE("missing WordNet files name the package to install", "[data]") {
  const std::string error = error_of([] { read_wordnet("/nonexistent", "noun"); });
  CHECK_THAT(error, Contains("/nonexistent/data.noun") && Contains("apt-get install wordnet-base"));
  CHECK_THAT(error_of([] { read_wordnet(kWordNetDirectory, "verbs"); }),
             Contains("verbs") && Contains("noun"));
}

TEST_CASE("a malformed WordNet line is named by file and line", "[data]") {
  CHECK(wordnet_error("  licence\n" + kGood).empty());
  for (const char* bad :
       {"00001740 03 n 01 entity 0", "00001740 03 n 02 entity 0 000 | too few words",
        "00001740 03 n 0x entity 0 000 | gloss", "0000174 03 n 01 entity | gloss",
        "00001740 99 n 01 x | gloss", "00001740 29 n 01 x | a verb's file", "00001740 03 v 01 x | gloss",
        "00001740 03 n 01 x 0 001 | no pointer",
        "00001740 03 n 01 x 0 1 ~ 00001930 n 0000 | not three digits",
        "00001740 03 n 01 x 0 001 ~ 0000193 n 0000 | a short offset", "00001740 03 n 01 x | ", "", "| gloss",
        "00001740 03 n 01 x |gloss", "00001740 03 n 01 x | \xFF"})
    CHECK_THAT(wordnet_error("  licence\n" + kGood + bad + "\n" + kGood), Contains("data.noun:3: "));
}

TEST_CASE("a truncated WordNet line is refused and does not crash", "[data]") {
  for (std::size_t size = 0; size < kGood.size(); ++size) {
    const std::string error = wordnet_error(kGood.substr(0, size));
    // After the bar, a shorter gloss is still a valid gloss.
    if (size > 0 && size < kGood.find('|') + 3) CHECK_THAT(error, Contains("data.noun:1: "));
  }
}

TEST_CASE("a noun's definition is its first sense in the lexicographer file", "[data]") {
  const TemporaryDirectory folder;
  folder.write("data.noun",
               "  1 the licence\n"
               "00000001 06 n 01 gym_shoe 0 000 | a second sense; \"with an example\"\n"
               "00000002 04 n 01 gym_shoe 0 000 | the first, but no artifact\n"
               "00000003 06 n 01 gym_shoe 0 000 | a shoe; has a sole; \"his shoe\"; \"her shoe\"\n"
               "00000004 06 n 01 T-shirt 0 000 | a shirt\n");
  const std::string index =
      "  1 the licence\ngym_shoe n 3 2 @ ~ 3 1 00000002 00000003 00000001  \nt-shirt n 1 1 @ 1 0 00000004  "
      "\n";
  folder.write("index.noun", index + "act n 1 1 @ 1 0 00000002  \n");
  const auto definitions = [&](const std::vector<std::string_view>& words) {
    return read_definitions(folder.path(), "noun.artifact", words);
  };
  CHECK(definitions({"T-shirt", "gym shoe"}) == std::vector<std::string>{"a shirt", "a shoe; has a sole"});
  for (const char* missing : {"act", "boot"})
    CHECK_THAT(error_of([&] {
                 definitions({"T-shirt", missing});
               }),
               Contains(fmt::format("index.noun: `{}` has no sense", missing)) && Contains("noun.artifact"));
  for (const char* bad : {"boot", "boot n 1 1 @ 1 0", "boot n 2 1 @ 1 0 00000004", "boot n 1 1 @ 1 0 0000004",
                          "boot n x 1 @ 1 0 00000004", "boot n 0 1 @ 1 0 00000004"}) {
    folder.write("index.noun", index + bad + "\n");
    CHECK_THAT(error_of([&] { definitions({"boot"}); }), Contains("index.noun:4: "));
    CHECK(error_of([&] { definitions({"T-shirt"}); }) == "");
  }
}
