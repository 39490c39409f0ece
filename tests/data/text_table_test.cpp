#include "data/text_table.h"

#include <catch2/catch.hpp>
#include <set>

#include "core/file.h"
#include "core/random.h"
#include "tests/data/temporary_directory.h"

using namespace conclave;
using Catch::Matchers::Contains;
using Catch::Matchers::EndsWith;

namespace {

TextDataset read_table(const TextTableOptions& options) {
  BadInputs none;
  return read_text_table(options, none);
}

// The warnings about a table in one file, which is split by its texts.
std::vector<std::string> table_warnings(const std::string& content) {
  const TemporaryDirectory folder;
  BadInputs none;
  read_text_table({.path = folder.write("t.csv", content)}, none);
  return none.warnings();
}

TextDataset read_train(const std::string& name, const std::string& content) {
  const TemporaryDirectory folder;
  return read_table({.train = folder.write(name, content)});
}

std::string table_error(const std::string& name, const std::string& content) {
  return error_of([&] { read_train(name, content); });
}

}  // namespace

TEST_CASE("a CSV field may hold commas, doubled quotes and line ends", "[data]") {
  const auto data = read_train("t.csv",
                               "\xEF\xBB\xBFid,\"text\",label\r\n"
                               "1,\"a, \"\"b\"\"\r\nc\",x\r\n"
                               "\r\n"
                               "2,,y\r\n"
                               "3,\"\",\"x\"");
  REQUIRE(data.train.size() == 3);
  CHECK(data.train[0].text == "a, \"b\"\r\nc");
  CHECK(data.train[1].text.empty());
  CHECK(data.train[2].text.empty());
  CHECK(data.class_names == std::vector<std::string>{"x", "y"});
  CHECK(data.train[0].label == 0);
  CHECK(data.train[1].label == 1);
  CHECK(data.train[2].label == 0);
  CHECK(data.validation.empty());
  CHECK(data.test.empty());
}

TEST_CASE("TSV fields are taken as they stand", "[data]") {
  const auto data = read_train("t.tsv", "label\ttext\r\n0\tsaid \"no, \r\n1\t'quoted'\n");
  REQUIRE(data.train.size() == 2);
  CHECK(data.train[0].text == "said \"no, ");
  CHECK(data.train[1].text == "'quoted'");
}

TEST_CASE("JSONL labels may be strings, integers or booleans", "[data]") {
  const auto data =
      read_train("t.jsonl",
                 "\xEF\xBB\xBF{\"text\": \"caf\\u00e9 \xE2\x82\xAC\", \"label\": 10}\r\n\n"
                 "{\"label\": \"-2\", \"text\": \"b\\nc\", \"more\": [1, {}]}\n{\"text\":\"\",\"label\":9}");
  REQUIRE(data.train.size() == 3);
  CHECK(data.train[0].text == "caf\xC3\xA9 \xE2\x82\xAC");
  CHECK(data.train[1].text == "b\nc");
  CHECK(data.class_names == std::vector<std::string>{"-2", "9", "10"});  // integers sort as numbers
  CHECK(data.train[0].label == 2);
  const auto truth =
      read_train("t.jsonl", "{\"text\":\"a\",\"label\":true}\n{\"text\":\"b\",\"label\":false}");
  CHECK(truth.class_names == std::vector<std::string>{"false", "true"});
  CHECK(truth.train[0].label == 1);
}

TEST_CASE("a table's extension may be in upper case", "[data]") {
  CHECK(read_train("UP.CSV", "text,label\n\"a,b\",x\n").train[0].text == "a,b");
  CHECK(read_train("UP.Tsv", "text\tlabel\na,b\tx\n").train[0].text == "a,b");
  CHECK(read_train("UP.JSONL", "{\"text\":\"a\",\"label\":1}").train[0].text == "a");
}

TEST_CASE("a header without the column gives an error with possible reasons", "[data]") {
  CHECK_THAT(table_error("t.tsv", "\"text\"\t\"label\"\n\"a\"\t\"x\"\n"),
             Contains("t.tsv:1: ") && Contains("fields of a .tsv are not quoted: save the file as .csv"));
  CHECK_THAT(table_error("t.csv", "text;label\na;x\n"),
             Contains("t.csv:1: ") && Contains("is it separated by semicolons?"));
  CHECK_THAT(table_error("t.csv", "\"text\";\"label\"\n\"a\";\"x\"\n"),
             Contains("t.csv:1: ") && Contains("separated by semicolons?"));
  CHECK_THAT(table_error("t.csv", "sentence,label\na,x\n"), !Contains("semicolons"));
  CHECK_THAT(table_error("t.csv", "text;,text,label,text\n"), !Contains("semicolons"));
}

TEST_CASE("empty texts of a table give a warning", "[data]") {
  const auto warnings = table_warnings("text,label\na,x\n ,x\n\"\",x\nb,x\n");
  REQUIRE(!warnings.empty());
  CHECK_THAT(warnings[0], Contains("t.csv: 2 of 4 texts are empty"));
}

TEST_CASE("bad rows of a table are skipped and counted where that is allowed", "[data]") {
  const TemporaryDirectory folder;
  const auto read = [&](const std::string& name, const std::string& content, BadInputs& bad) {
    return read_text_table({.train = folder.write(name, content)}, bad);
  };
  BadInputs csv(true);
  const auto data = read(
      "t.csv",
      "text,label\na,x\nb\nc,d,e\nf,\ng\xFF,y\n\"h\ni\",y\nj," + std::string(2000, 'z') + "\nk \"l\",x\n",
      csv);
  CHECK(csv.count() == 6);
  CHECK_THAT(csv.first(), Contains("t.csv:3: 1 fields"));
  REQUIRE(data.train.size() == 2);
  CHECK(data.train[1].text == "h\ni");
  CHECK(data.class_names == std::vector<std::string>{"x", "y"});

  BadInputs jsonl(true);
  CHECK(
      read("t.jsonl",
           "{\"text\":\n{\"text\":\"a\",\"label\":1}\n[]\n{\"text\":\"a\"}\n{\"text\":\"\xE9\",\"label\":1}",
           jsonl)
          .train.size() == 1);
  CHECK(jsonl.count() == 4);
  CHECK_THAT(jsonl.first(), Contains("t.jsonl:1: not JSON"));

  // A label that the training split does not have.
  BadInputs test(true);
  const TextTableOptions options{.train = folder.write("a.csv", "text,label\na,x\n"),
                                 .test = folder.write("b.csv", "text,label\nb,y\nc,x\n")};
  CHECK(read_text_table(options, test).test.size() == 1);
  CHECK_THAT(test.first(), Contains("b.csv:2: label `y` does not occur"));

  // Errors that do not concern a single row remain errors.
  BadInputs bad(true);
  CHECK_THAT(error_of([&] { read("t.csv", "text\na\n", bad); }), Contains("one column named `label`"));
  CHECK_THAT(error_of([&] { read("t.csv", "text,label,\xE9\na,x,1\n", bad); }),
             Contains("t.csv:1: invalid UTF-8"));
  CHECK_THAT(error_of([&] { read("t.csv", "text,label\na,x\n\"b,x\n", bad); }), Contains("never closed"));
  CHECK(bad.count() == 0);
  CHECK_THAT(error_of([&] { read("t.jsonl", "{\"texts\":\"a\"}", bad); }),
             Contains("no rows to train on; all were left out, the first of them as ") &&
                 Contains("t.jsonl:1: no key `text`"));
}

TEST_CASE("classes without a training example give a warning", "[data]") {
  std::string rows = "text,label\n";
  for (int i = 0; i < 40; ++i) rows += fmt::format("text number {},{}\n", i, i % 4 == 0 ? "a" : "b");
  CHECK(table_warnings(rows).empty());
  const TemporaryDirectory folder;
  const TextDataset all = read_table({.path = folder.write("t.csv", rows)});
  std::vector<std::string> held;  // texts of the validation and test splits
  for (const auto* split : {&all.validation, &all.test})
    for (const TextExample& example : *split) held.push_back(example.text);
  REQUIRE(held.size() > 1);
  const auto warnings = table_warnings(rows + held[0] + ",rare\n" + held[1] + ",\"two\nlines\"\n");
  REQUIRE(warnings.size() == 1);
  CHECK_THAT(warnings[0], Contains("t.csv: 2 of 4 classes have no training example") &&
                              Contains("name the files `train`, `validation` and `test`") &&
                              EndsWith(": rare, two\nlines"));
  for (int i = 0; i < 7; ++i) rows += fmt::format("{},rare {}\n", held[0], i);
  CHECK_THAT(table_warnings(rows).at(0), EndsWith("rare 0, rare 1, rare 2, rare 3, rare 4 and 2 more"));
}

TEST_CASE("labels that differ only by blanks give a warning", "[data]") {
  std::string rows = "text,label\n";
  for (int i = 0; i < 200; ++i) rows += fmt::format("text number {},{}\n", i, i % 2 == 0 ? "spam" : "ham");
  CHECK(table_warnings(rows).empty());
  for (int i = 0; i < 200; ++i) rows += fmt::format("another {},{}\n", i, i % 2 == 0 ? "spam " : " spam");
  const auto warnings = table_warnings(rows);
  REQUIRE(warnings.size() == 1);
  CHECK_THAT(warnings[0], Contains("t.csv: labels that differ only in surrounding blanks") &&
                              EndsWith(": ` spam` and `spam`, ` spam` and `spam `"));
}

TEST_CASE("column names are the user's own", "[data]") {
  const TemporaryDirectory folder;
  const TextTableOptions options{.train = folder.write("a.csv", "sentence,class\nhello,spam\n"),
                                 .text_column = "sentence",
                                 .label_column = "class"};
  CHECK(read_table(options).train[0].text == "hello");
  CHECK_THAT(table_error("t.csv", "sentence,class\nhello,spam\n"),
             Contains("t.csv:1: ") && Contains("sentence, class"));
  CHECK_THAT(table_error("t.csv", "text,label,text\n"), Contains("one column named `text`"));
}

TEST_CASE("a column may say which texts are of the domain", "[data]") {
  const TemporaryDirectory folder;
  const auto in_domain = [&](const std::string& name, const std::string& content) {
    std::string marks;
    const auto data = read_table({.train = folder.write(name, content), .domain_column = "urgent"});
    for (const TextExample& example : data.train) marks += example.in_domain ? '1' : '0';
    return marks;
  };
  CHECK(
      in_domain("t.csv",
                "text,urgent,label\na,,x\nb,0,x\nc,false,x\nd,FALSE,x\ne,No,x\nf,1,x\ng,True,x\nh,law,x\n") ==
      "00000111");
  CHECK(in_domain("t.jsonl", R"({"text":"a","label":"x"}
{"text":"b","label":"x","urgent":null}
{"text":"c","label":"x","urgent":false}
{"text":"d","label":"x","urgent":0}
{"text":"e","label":"x","urgent":""}
{"text":"f","label":"x","urgent":true}
{"text":"g","label":"x","urgent":"law"})") == "0000011");
  CHECK_THAT(error_of([&] { in_domain("t.csv", "text,label\na,x\n"); }),
             Contains("one column named `urgent`"));
}

TEST_CASE("a column may give the client of a text", "[data]") {
  const TemporaryDirectory folder;
  const auto read = [&](const std::string& name, const std::string& content) {
    std::vector<std::int32_t> clients;
    const auto data = read_table({.train = folder.write(name, content), .client_column = "who"});
    for (const TextExample& example : data.train) clients.push_back(example.client);
    return clients;
  };
  const std::vector<std::int32_t> expected{0, 1, 0, 2};
  CHECK(read("t.csv", "text,who,label\na,Ada,x\nb,Bob,x\nc,Ada,x\nd,7,x\n") == expected);
  CHECK(read("t.jsonl", R"({"text":"a","label":"x","who":"Ada"}
{"text":"b","label":"x","who":3}
{"text":"c","label":"x","who":"Ada"}
{"text":"d","label":"x","who":"7"})") == expected);
  CHECK_THROWS_WITH(read("t.csv", "text,who,label\na,,x\n"),
                    Contains("t.csv:2: `who` is empty; every row must name its client"));
  CHECK_THROWS_WITH(read("t.jsonl", R"({"text":"a","label":"x"})"), Contains("t.jsonl:1: no key `who`"));
  CHECK_THROWS_WITH(read("t.jsonl", R"({"text":"a","label":"x","who":null})"), Contains("`who` is a null"));
  CHECK_THROWS_WITH(read("t.jsonl", R"({"text":"a","label":"x","who":""})"), Contains("empty string"));
  CHECK(read_table({.train = folder.write("n.csv", "text,label\na,x\n")}).train[0].client == -1);
  const auto by_label =
      read_table({.train = folder.write("l.csv", "text,label\na,x\nb,y\nc,x\n"), .client_column = "label"});
  CHECK(by_label.train[1].client == 1);
  CHECK(by_label.train[2].client == 0);
}

TEST_CASE("labels that training lacks are named by file and line", "[data]") {
  const TemporaryDirectory folder;
  const TextTableOptions options{.train = folder.write("a.csv", "text,label\nhello,spam\nbye,ham\n"),
                                 .validation = folder.write("b.tsv", "text\tlabel\nx\tham\n"),
                                 .test = folder.write("c.jsonl", "{\"text\":\"x\",\"label\":\"egg\"}")};
  CHECK_THAT(error_of([&] { read_table(options); }), Contains("c.jsonl:1: ") && Contains("`egg`"));
  folder.write("c.jsonl", "{\"text\":\"x\",\"label\":\"spam\"}");
  const auto data = read_table(options);
  CHECK(data.validation.at(0).label == 0);
  CHECK(data.test.at(0).label == 1);
}

TEST_CASE("one file is split 90 / 5 / 5 by its texts, whatever their order", "[data]") {
  const TemporaryDirectory folder;
  std::string forwards = "text,label\n", backwards = forwards;
  for (int i = 0; i < 4000; ++i) forwards += fmt::format("text number {},{}\n", i, i % 3);
  for (int i = 4000; i-- > 0;) backwards += fmt::format("text number {},{}\n", i, i % 3);
  const auto a = read_table({.path = folder.write("a.csv", forwards)});
  const auto b = read_table({.path = folder.write("b.csv", backwards)});
  CHECK(a.train.size() == Approx(3600).margin(80));
  CHECK(a.validation.size() == Approx(200).margin(60));
  CHECK(a.train.size() + a.validation.size() + a.test.size() == 4000);
  const auto texts = [](const std::vector<TextExample>& split) {
    std::set<std::string> set;
    for (const auto& example : split) set.insert(example.text);
    return set;
  };
  CHECK(texts(a.test) == texts(b.test));
  CHECK(texts(a.validation) == texts(b.validation));
}

TEST_CASE("one file with a client column is split by client", "[data]") {
  const TemporaryDirectory folder;
  std::string rows = "text,who,label\n";
  for (int i = 0; i < 4000; ++i)
    rows += fmt::format("text number {},client {},{}\n", i % 3000, i % 400, i % 3);
  const auto data = read_table({.path = folder.write("t.csv", rows), .client_column = "who"});
  std::set<std::int32_t> all;
  for (const auto* split : {&data.train, &data.validation, &data.test}) {
    std::set<std::int32_t> clients;
    for (const TextExample& example : *split) clients.insert(example.client);
    CHECK(split->size() == 10 * clients.size());
    CHECK(clients.size() >= 8);
    all.insert(clients.begin(), clients.end());
  }
  CHECK(all.size() == 400);
  CHECK(data.train.size() == Approx(3600).margin(200));

  const std::string few = "text,who,label\na,18,x\nb,18,x\n";  // the hash of 18 puts it in the test split
  CHECK_THAT(error_of([&] { read_table({.path = folder.write("f.csv", few), .client_column = "who"}); }),
             Contains("too few different clients to split"));
}

TEST_CASE("malformed tables are named by file and line", "[data]") {
  CHECK_THAT(table_error("t.csv", ""), Contains("t.csv:1: "));
  CHECK_THAT(table_error("t.csv", "text,label\n"), Contains("no rows"));
  CHECK_THAT(table_error("t.csv", "text,label\na,b\nc\n"), Contains("t.csv:3: 1 fields"));
  CHECK_THAT(table_error("t.csv", "text,label\n\"a\nb\",x\nc,d,e\n"), Contains("t.csv:4: 3 fields"));
  CHECK_THAT(table_error("t.csv", "text,label\na,x\nb \"c\",x\n"),
             Contains("t.csv:3: a quote or carriage return within"));
  CHECK_THAT(table_error("t.csv", "text,label\na,b\n\"c\n,d\n"),
             Contains("t.csv:3: ") && Contains("never closed"));
  CHECK_THAT(table_error("t.csv", "text,label\n\"a\"b,c\n"),
             Contains("t.csv:2: ") && Contains("closing quote"));
  CHECK_THAT(table_error("t.csv", "text,label\na\"b,c\n"), Contains("t.csv:2: ") && Contains("unquoted"));
  CHECK_THAT(table_error("t.csv", "text,label\na,\n"), Contains("t.csv:2: the label is empty"));
  CHECK_THAT(table_error("t.csv", "text,label\na,b\nc\xFF,d\n"), Contains("t.csv:3: invalid UTF-8"));
  CHECK_THAT(table_error("t.tsv", "text\tlabel\na,b\n"), Contains("t.tsv:2: 1 fields"));
  CHECK_THAT(table_error("t.jsonl", "{\"text\":\"a\",\"label\":1}\n{\"text\":"),
             Contains("t.jsonl:2: not JSON"));
  CHECK_THAT(table_error("t.jsonl", "[1]"), Contains("t.jsonl:1: a JSON array"));
  CHECK_THAT(table_error("t.jsonl", "{\"text\":\"a\"}"), Contains("no key `label`"));
  CHECK_THAT(table_error("t.jsonl", "{\"text\":1,\"label\":1}"), Contains("`text` is a number"));
  CHECK_THAT(table_error("t.jsonl", "{\"text\":\"a\",\"label\":1.5}"), Contains("`label` is a fraction"));
  CHECK_THAT(table_error("t.jsonl", "{\"text\":\"\\ud800\",\"label\":1}"), Contains("t.jsonl:1: not JSON"));
  CHECK_THAT(table_error("t.jsonl", "{\"text\":\"" + std::string(kLongestText + 1, 'a') + "\",\"label\":1}"),
             Contains("t.jsonl:1: ") && Contains("above the limit"));
  CHECK_THAT(table_error("t.csv", "text,label\na," + std::string(2000, 'x') + "\n"),
             Contains("label_column"));
  CHECK_THAT(table_error("t.txt", "x"), Contains("unknown extension `.txt`"));
  CHECK_THAT(table_error("t.csv", std::string("\xFF\xFEt\0e\0", 6)), Contains("iconv -f UTF-16 -t UTF-8"));
  CHECK_THAT(error_of([] { read_table({.path = "/"}); }), Contains("/: is a folder; data.path names"));
  CHECK_THAT(error_of([] { read_table({.train = "/nonexistent.csv"}); }), Contains("/nonexistent.csv"));
  CHECK_THAT(error_of([] { read_table({.path = "a.csv", .train = "b.csv"}); }), Contains("either `path`"));
  CHECK_THAT(error_of([] { read_table({}); }), Contains("either `path`"));
}

TEST_CASE("random bytes in a table give rows or an Error, never anything else", "[data]") {
  const std::string alphabet = "\"\",,\n\r\t{}[]:1a\\u\xC3\xA9";
  for (const char* name : {"t.csv", "t.tsv", "t.jsonl"})
    for (std::uint32_t run = 0; run < 300; ++run) {
      const RandomStream random{7, run, 0};
      std::string content = run % 2 ? "text,label\n" : "text\tlabel\n{\"text\":\"a\",\"label\":";
      for (std::uint64_t i = 0; i < random.below(60, 0); ++i)
        content += alphabet[random.below(alphabet.size(), i + 1)];
      CHECK_NOTHROW(table_error(name, content));
    }
}

TEST_CASE("UTF-8 is checked to the letter of RFC 3629", "[data]") {
  for (const char* good : {"", "a", "\xC2\x80", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEF\xBF\xBF",
                           "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"})
    CHECK(find_invalid_utf8(good) == std::string::npos);
  for (const char* bad : {"\x80", "\xC0\x80", "\xC1\xBF", "\xC2", "\xE0\x9F\xBF", "\xE2\x82", "\xED\xA0\x80",
                          "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "\xE2\x28\xA1"})
    CHECK(find_invalid_utf8(std::string("ab") + bad) == 2);
}
