// Measures against scikit-learn, SciPy and COCO's own evaluation, and edge cases by hand.
#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "recipes/measures/captions.h"
#include "recipes/measures/classification.h"
#include "recipes/measures/glue.h"

using namespace conclave;

namespace {

using Ids = std::vector<std::int32_t>;
using Numbers = std::vector<double>;
using Words = std::vector<std::string>;

nlohmann::json fixture(const char* name) {
  std::ifstream file(CONCLAVE_FIXTURES "/measures.json");
  return nlohmann::json::parse(file).at(name);
}

}  // namespace

TEST_CASE("measures of classes agree with scikit-learn", "[measures]") {
  for (const auto& one : fixture("classes")) {
    const auto predicted = one.at("predicted").get<Ids>(), labels = one.at("labels").get<Ids>();
    CHECK(accuracy(predicted, labels) == Approx(one.at("accuracy").get<double>()).epsilon(1e-12));
    CHECK(f1(predicted, labels) == Approx(one.at("f1").get<double>()).epsilon(1e-12));
    CHECK(matthews(predicted, labels) == Approx(one.at("matthews").get<double>()).epsilon(1e-12));
  }
}

TEST_CASE("correlations of scores agree with SciPy, also with ties", "[measures]") {
  for (const auto& one : fixture("scores")) {
    const auto predicted = one.at("predicted").get<Numbers>(), known = one.at("known").get<Numbers>();
    CHECK(pearson(predicted, known) == Approx(one.at("pearson").get<double>()).epsilon(1e-12));
    CHECK(spearman(predicted, known) == Approx(one.at("spearman").get<double>()).epsilon(1e-12));
  }
}

TEST_CASE("BLEU and CIDEr-D agree with COCO's evaluation", "[measures]") {
  for (const auto& one : fixture("captions")) {
    std::vector<JudgedCaption> captions;
    for (const auto& caption : one.at("captions"))
      captions.push_back({caption.at("caption").get<std::string>(), caption.at("references").get<Words>()});
    const auto expected = one.at("bleu").get<Numbers>();
    const auto found = bleu(captions);
    for (std::size_t n = 0; n < 4; ++n) CHECK(found[n] == Approx(expected.at(n)).epsilon(1e-7));
    CHECK(cider_d(captions) == Approx(one.at("cider_d").get<double>()).epsilon(1e-9));
  }
}

TEST_CASE("undefined measures are 0", "[measures]") {
  CHECK(f1(Ids{0, 0}, Ids{0, 0}) == 0);
  CHECK(matthews(Ids{1, 1}, Ids{0, 1}) == 0);
  CHECK(matthews(Ids{0, 1}, Ids{1, 1}) == 0);
  CHECK(matthews(Ids{0, 1}, Ids{1, 0}) == -1);
  CHECK(pearson(Numbers{0.1, 0.1, 0.1}, Numbers{1, 2, 3}) == 0);
  CHECK(spearman(Numbers{1, 2, 3}, Numbers{0.1, 0.1, 0.1}) == 0);
  CHECK(bleu(std::vector<JudgedCaption>{{"", {"a cat"}}})[0] == 0);
  CHECK(cider_d(std::vector<JudgedCaption>{{"a cat", {"a cat"}}}) == 0);
  CHECK(cider_d(std::vector<JudgedCaption>{{"", {"a cat"}}, {"dog", {"dog"}}}) == Approx(1.25));
  CHECK_THROWS_AS(accuracy({}, {}), Error);
  CHECK_THROWS_AS(f1(Ids{1}, Ids{1, 2}), Error);
  CHECK_THROWS_AS(matthews(Ids{-1}, Ids{1}), Error);
  CHECK_THROWS_AS(pearson({}, {}), Error);
  CHECK_THROWS_AS(bleu({}), Error);
  CHECK_THROWS_AS(cider_d(std::vector<JudgedCaption>{{"a", {}}}), Error);
}

TEST_CASE("correlations with a NaN are NaN", "[measures]") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(std::isnan(spearman(Numbers{1, nan, 2}, Numbers{1, 2, 3})));
  CHECK(std::isnan(spearman(Numbers{1, 2, 3}, Numbers{1, nan, 3})));
  CHECK(std::isnan(pearson(Numbers{nan, nan, nan}, Numbers{1, 2, 3})));
}

TEST_CASE("BLEU clips counts and uses the length of the closest reference", "[measures]") {
  // Papineni's example: 7 times "the", which is twice in one reference. References of 6 and 8 words are
  // equally close to 7 words; the shorter one counts.
  const std::vector<JudgedCaption> captions{
      {"the the the the the the the", {"the cat is on the mat", "on the mat there is a cat today"}}};
  CHECK(bleu(captions)[0] == Approx(2.0 / 7));
  CHECK(bleu(captions)[1] == 0);
  // All 3 words are right; the references have 4 words and 1.
  CHECK(bleu(std::vector<JudgedCaption>{{"a cat sat", {"a cat sat down", "a"}}})[0] ==
        Approx(std::exp(1 - 4.0 / 3)));
}

TEST_CASE("words of plain English captions agree with COCO's evaluation", "[measures]") {
  // As PTBTokenizer 3.4.1 splits them, without punctuation.
  CHECK(caption_words("The man's T-shirt, isn't it?") ==
        Words{"the", "man", "'s", "t-shirt", "is", "n't", "it"});
  CHECK(caption_words("close-up of  half-eaten pizza - with cheese -- and\tolives.") ==
        Words{"close-up", "of", "half-eaten", "pizza", "with", "cheese", "and", "olives"});
  CHECK(caption_words("they've eaten the dogs' food; it's gone...") ==
        Words{"they", "'ve", "eaten", "the", "dogs", "food", "it", "'s", "gone"});
  CHECK(caption_words("It won't cost 1,000.50!") == Words{"it", "wo", "n't", "cost", "1,000.50"});
  CHECK(caption_words("Caf\xC3\xA9 O'Brien") == Words{"caf\xC3\xA9", "o'brien"});
  // PTBTokenizer splits these differently.
  CHECK(caption_words("(a sink/toilet & \"stop\" in the U.S.)") ==
        Words{"a", "sink", "toilet", "stop", "in", "the", "u", "s"});
  CHECK(caption_words("'-.,").empty());
}

TEST_CASE("each of GLUE's tasks has its own measures", "[measures]") {
  const Numbers predicted{1, 0, 1, 1}, labels{1, 0, 0, 1};
  const auto names = [&](const char* task) {
    std::string names;
    for (const Measure& measure : glue_measures(task, predicted, labels)) names += measure.name + " ";
    return names;
  };
  CHECK(names("cola") == "matthews ");
  CHECK(names("stsb") == "pearson spearman ");
  for (const char* task : {"mrpc", "qqp"}) CHECK(names(task) == "f1 accuracy ");
  for (const char* task : {"sst2", "mnli", "mnli_mismatched", "qnli", "rte", "wnli"})
    CHECK(names(task) == "accuracy ");
  CHECK(glue_measures("mrpc", predicted, labels)[0].value == Approx(0.8));
  CHECK(glue_measures("mrpc", predicted, labels)[1].value == 0.75);
  CHECK_THROWS_AS(glue_measures("ax", predicted, labels), Error);
}

TEST_CASE("a prediction is the most probable class, or the mean of scores", "[measures]") {
  CHECK(glue_prediction("mnli", std::vector<float>{0, 3, 2}) == 1);
  CHECK(glue_prediction("stsb", std::vector<float>{0, 0, 0, 0, 0, 0}) == Approx(2.5));
  CHECK(glue_prediction("stsb", std::vector<float>{-1e4F, -1e4F, -1e4F, -1e4F, 1e4F, 1e4F}) == Approx(4.5));
  CHECK_THROWS_AS(glue_prediction("rte", std::vector<float>{0, 0, 0}), Error);
  // Logits that are no numbers predict no class, not the first one.
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN(),
                  kInfinite = std::numeric_limits<float>::infinity();
  for (const std::vector<float>& logits :
       {std::vector{kNan, 0.0F}, {1.0F, kNan}, {kInfinite, 0.0F}, {-kInfinite, -kInfinite}})
    CHECK(std::isnan(glue_prediction("rte", logits)));
  CHECK(glue_prediction("rte", std::vector<float>{-kInfinite, 0}) == 1);
  const std::vector<double> none{kNan, 1, kNan, 0}, some{0, 1, 1, 0};
  CHECK(glue_measures("mrpc", none, some)[1].value == 0.5);
  CHECK(glue_measures("mrpc", none, some)[0].value == Approx(2 / 3.0));
  CHECK(glue_measures("cola", none, some)[0].value < 1);
}
