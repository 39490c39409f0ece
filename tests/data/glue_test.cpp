#include "data/glue.h"

#include <catch2/catch.hpp>
#include <filesystem>
#include <set>

#include "tests/data/temporary_directory.h"

using namespace conclave;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

namespace {

// A file of a task in its published format, with one row.
struct Published {
  const char *task, *content;
  TextExample expected;
};

const std::vector<Published> kPublished{
    {"cola", "gj04\t0\t*\tThe \"cat slept.\n", {"The \"cat slept.", 0}},
    {"sst2", "sentence\tlabel\ncontains no wit \t1\n", {"contains no wit ", 1}},
    {"mrpc",
     "\xEF\xBB\xBFQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t702876\t702977\tHe \"said.\tSaid he.\r\n",
     {"He \"said.", 1, false, "Said he."}},
    {"stsb",
     "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
     "0\tmain-captions\tMSRvid\t2012test\t0001\tnone\tnone\tA plane.\tA jet.\t4.500\n",
     {"A plane.", 5, false, "A jet.", 4.5}},
    {"qqp",
     "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\tHow?\tWhy?\t0\n",
     {"How?", 0, false, "Why?"}},
    {"mnli",
     "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
     "sentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label\n"
     "0\t1\t1n\tfiction\t( a )\t( b )\t(S a)\t(S b)\tIt rains.\tIt is dry.\tneutral\tcontradiction\n",
     {"It rains.", 2, false, "It is dry."}},
    {"mnli_mismatched",
     "sentence1\tsentence2\tgold_label\nIt rains.\tIt is wet.\tneutral\n",
     {"It rains.", 1, false, "It is wet."}},
    {"qnli",
     "index\tquestion\tsentence\tlabel\n0\tWho?\tHe did.\tnot_entailment\n",
     {"Who?", 1, false, "He did."}},
    {"rte", "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tentailment\n", {"A.", 0, false, "B."}},
    {"wnli", "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\t1\n", {"A.", 1, false, "B."}},
};

std::string glue_error(const char* task, const std::string& content) {
  return error_of([&] {
    BadInputs none;
    parse_glue(content, "dev.tsv", glue_task(task), none);
  });
}

}  // namespace

TEST_CASE("GLUE's files are read as they are published", "[data]") {
  CHECK(kPublished.size() == glue_tasks().size());
  for (const auto& [task, content, expected] : kPublished) {
    CAPTURE(task);
    BadInputs none;
    const auto examples = parse_glue(content, "train.tsv", glue_task(task), none);
    REQUIRE(examples.size() == 1);
    CHECK(examples[0].text == expected.text);
    CHECK(examples[0].pair == expected.pair);
    CHECK(examples[0].label == expected.label);
    CHECK(examples[0].score == expected.score);
  }
}

TEST_CASE("a malformed row of GLUE is named by file, line and column", "[data]") {
  const std::string rte = "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tentailment\n";
  CHECK(glue_error("rte", rte + "1\tA.\tB.\n") ==
        "dev.tsv:3: 3 columns, expected 4: index, sentence1, sentence2, label");
  CHECK_THAT(glue_error("rte", rte + "1\tA.\tB.\tentailment\tC."), StartsWith("dev.tsv:3: 5 columns"));
  CHECK(glue_error("rte", rte + "1\tA.\tB.\tyes") ==
        "dev.tsv:3: label is `yes`; it is one of: entailment, not_entailment");
  CHECK(glue_error("rte", rte + "1\tA.\t\xFF\tentailment") == "dev.tsv:3: sentence2 is not UTF-8");
  CHECK_THAT(glue_error("rte", "index\tsentence1\tlabel\n"),
             StartsWith("dev.tsv:1: no column `sentence2`") && Contains("index, sentence1, label"));
  CHECK_THAT(glue_error("rte", ""), StartsWith("dev.tsv:1: the file is empty"));
  CHECK_THAT(glue_error("rte", "index\tsentence1\tsentence2\tlabel\n"), Contains("no rows of GLUE's RTE"));
  CHECK_THAT(glue_error("cola", "sentence\tlabel\nThe cat slept.\t1\n"),
             StartsWith("dev.tsv:1: 2 columns, expected 4"));
  for (const char* score : {"5.1", "-0.1", "nan", "inf", "", "4,5", "4.5 "})
    CHECK_THAT(glue_error("stsb", std::string("sentence1\tsentence2\tscore\nA.\tB.\t") + score + "\n"),
               StartsWith("dev.tsv:2: score is `") && Contains("from 0 to 5"));
  CHECK_THAT(glue_error("qqp", "question1\tquestion2\tis_duplicate\nA.\n"), Contains("data.skip_bad = true"));
  CHECK_THAT(error_of([] { glue_task("ax"); }), Contains("there are: cola, sst2"));
}

TEST_CASE("bad rows of GLUE are skipped and counted where that is allowed", "[data]") {
  BadInputs bad(true);
  const auto examples =
      parse_glue("sentence\tlabel\na\t1\nb\nc\t2\nd\t0\n", "dev.tsv", glue_task("sst2"), bad);
  REQUIRE(examples.size() == 2);
  CHECK(examples[1].text == "d");
  CHECK(bad.count() == 2);
  CHECK_THAT(bad.first(), StartsWith("dev.tsv:3: 1 columns"));
}

TEST_CASE("validation is a twentieth of GLUE's train, by the first text; test is dev", "[data]") {
  const TemporaryDirectory folder;
  std::filesystem::create_directory(folder.path() + "/MNLI");
  const std::string header = "sentence1\tsentence2\tgold_label\n";
  std::string train = header;
  for (int i = 0; i < 3000; ++i) train += fmt::format("premise {}\thypothesis {}\tneutral\n", i / 3, i);
  folder.write("MNLI/train.tsv", train);
  folder.write("MNLI/dev_matched.tsv", header + "A.\tB.\tneutral\n");
  folder.write("MNLI/dev_mismatched.tsv", header + "C.\tD.\tentailment\nE.\tF.\tentailment\n");
  BadInputs none;
  const TextDataset data = read_glue(folder.path(), "mnli", none);
  CHECK(data.class_names == std::vector<std::string>{"entailment", "neutral", "contradiction"});
  CHECK(data.validation.size() == Approx(150).margin(45));
  CHECK(data.train.size() + data.validation.size() == 3000);
  std::set<std::string> premises;
  for (const TextExample& example : data.train) premises.insert(example.text);
  for (const TextExample& example : data.validation) CHECK_FALSE(premises.contains(example.text));
  REQUIRE(data.test.size() == 1);
  CHECK(data.test[0].text == "A.");
  const TextDataset mismatched = read_glue(folder.path() + "/MNLI", "mnli_mismatched", none);
  CHECK(mismatched.train.size() == data.train.size());
  CHECK(mismatched.test.size() == 2);
  CHECK_THAT(error_of([&] { read_glue(folder.path(), "rte", none); }),
             StartsWith(folder.path() + "/RTE/train.tsv: cannot be opened"));
}
