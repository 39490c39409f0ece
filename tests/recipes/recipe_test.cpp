// Valid recipes, and the messages for mistakes in recipes.
#include "recipes/settings/recipe.h"

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <set>

#include "data/glue.h"
#include "recipes/settings/recipe_fields.h"
#include "recipes/settings/recipe_text.h"

using namespace conclave;
using Catch::Matchers::Contains;
using Catch::Matchers::EndsWith;
using Catch::Matchers::Equals;
using Catch::Matchers::StartsWith;

namespace {

namespace fs = std::filesystem;

/// The error message for `text` in a file q.toml, or "" if it is valid.
std::string mistake(const std::string& text, const std::vector<std::string>& overrides = {}) {
  try {
    parse_recipe(text, "q.toml", overrides);
  } catch (const RecipeError& error) {
    return error.what();
  }
  return "";
}

const fs::path kRecipes = fs::path(__FILE__).parent_path().parent_path().parent_path() / "recipes";

}  // namespace

TEST_CASE("an empty recipe has the defaults, which are valid", "[recipe]") {
  const Recipe recipe = parse_recipe("", "q.toml");
  CHECK(to_toml(recipe) == to_toml(Recipe{}));
  CHECK(recipe.moe.experts == 8);
  CHECK(recipe.origin.empty());
}

TEST_CASE("a recipe sets only the keys that it has", "[recipe]") {
  const Recipe recipe = parse_recipe(R"(
[moe]
experts = 16
z_coefficient = 1      # an integer is also a number
[train]
learning_rate = 3e-4
[checkpoint]
asynchronous = false
[run]
name = "caf\u00e9"
)",
                                     "q.toml");
  CHECK(recipe.moe.experts == 16);
  CHECK(recipe.moe.z_coefficient == 1.0);
  CHECK(recipe.train.learning_rate == 3e-4);
  CHECK_FALSE(recipe.checkpoint.asynchronous);
  CHECK(recipe.run.name == "caf\xC3\xA9");
  CHECK(recipe.moe.top_k == 2);
  CHECK(recipe.origin.at("moe.experts") == "q.toml:3");
}

TEST_CASE("--set overrides the file and earlier --set, with or without quotes", "[recipe]") {
  const Recipe recipe =
      parse_recipe("moe.experts = 4", "q.toml",
                   {"moe.experts=16", " moe.experts = 32 ", "run.name=two words", "train.schedule=\"linear\"",
                    "checkpoint.asynchronous=false", "train.learning_rate=1", "run.directory=a=b"});
  CHECK(recipe.moe.experts == 32);
  CHECK(recipe.run.name == "two words");
  CHECK(recipe.train.schedule == "linear");
  CHECK_FALSE(recipe.checkpoint.asynchronous);
  CHECK(recipe.train.learning_rate == 1.0);
  CHECK(recipe.run.directory == "a=b");
  CHECK(recipe.origin.at("moe.experts") == "--set moe.experts = 32");
}

TEST_CASE("a recipe written as TOML reads back the same, with or without comments", "[recipe]") {
  const Recipe recipe =
      parse_recipe("", "q.toml",
                   {"run.name=\"quote \\\" backslash \\\\ tab \\t end\"", "run.directory='#[x]'",
                    "train.learning_rate=0.1234567890123456789", "train.epsilon=1e-30", "train.clip_norm=1e9",
                    "run.seed=9007199254740993"});
  for (const bool documented : {false, true}) {
    const Recipe again = parse_recipe(to_toml(recipe, documented), "again.toml");
    CHECK(to_toml(again) == to_toml(recipe));
    CHECK(again.run.name == recipe.run.name);
    CHECK(again.train.learning_rate == recipe.train.learning_rate);
    CHECK(again.run.seed == 9007199254740993);
  }
}

TEST_CASE("arrays of strings are read, set and written; one string needs no brackets", "[recipe]") {
  const auto plugins = [](const std::string& text, const std::vector<std::string>& overrides = {}) {
    return parse_recipe(text, "q.toml", overrides).run.plugins;
  };
  using Texts = std::vector<std::string>;
  CHECK(plugins("").empty());
  CHECK(plugins("run.plugins = [\"a.so\", 'b c.so']") == Texts{"a.so", "b c.so"});
  CHECK(plugins("run.plugins = ['a.so']", {"run.plugins=[]"}).empty());
  for (const char* set : {"run.plugins=/x/a.so", "run.plugins='/x/a.so'", "run.plugins = [\"/x/a.so\"]"})
    CHECK(plugins("run.plugins = ['b.so', 'c.so']", {set}) == Texts{"/x/a.so"});
  const Recipe recipe = parse_recipe("", "q.toml", {"run.plugins=[\"a\\\"b\", 'c']"});
  CHECK(recipe.run.plugins == Texts{"a\"b", "c"});
  CHECK(parse_recipe(to_toml(recipe, true), "again.toml").run.plugins == recipe.run.plugins);

  CHECK(mistake("run.plugins = 'a.so'") ==
        "q.toml:1: run.plugins: expected an array of strings, got the string \"a.so\"");
  CHECK(mistake("run.plugins = ['a.so', 1]") ==
        "q.toml:1: run.plugins: expected an array of strings, got an array");
  CHECK(mistake("run.name = ['a', 'b']") == "q.toml:1: run.name: expected a string, got an array of strings");
  CHECK(mistake("run.plugins = ['']") == "q.toml:1: run.plugins: must not be empty");
  CHECK(mistake("", {"run.plugins="}) ==
        "--set run.plugins=: run.plugins: expected an array of strings, got nothing");
  CHECK_THAT(mistake("", {"run.plugins=[a"}), Contains("expected an array of strings, got [a"));
}

TEST_CASE("model.embedding is for texts and not wider than model.hidden", "[recipe]") {
  CHECK_NOTHROW(parse_recipe("model.embedding = 128", "q.toml"));
  CHECK(mistake("model.embedding = 129") ==
        "q.toml:1: model.embedding = 129 is more than model.hidden = 128 (default); model.embedding may be 1 "
        "to 128, or 0 for tables as wide as hidden");
  CHECK_THAT(
      mistake("model.embedding = 32", {"data.source=fashion_mnist"}),
      Contains("model.embedding = 32 is for texts, of which data.source = \"fashion_mnist\" has none"));
  for (const char* task : {"tasks.caption=1", "tasks.generate=1"}) {  // tasks with texts of their own
    CHECK_NOTHROW(parse_recipe("model.embedding = 32", "q.toml", {"data.source=fashion_mnist", task}));
    CHECK_THAT(mistake("model.bigrams = 10", {"data.source=fashion_mnist", task}),
               Contains("model.bigrams = 10 is for texts"));
  }
}

TEST_CASE("the numbers of experts of all kinds must add up to moe.experts", "[recipe]") {
  CHECK_NOTHROW(parse_recipe("moe.expert = \"6 feed_forward, 1 gated, 1 not_known_here\"", "q.toml"));
  CHECK(mistake("moe.expert = \"6 feed_forward, 1 gated\"") ==
        "q.toml:1: moe.expert = \"6 feed_forward, 1 gated\", moe.experts = 8 (default): these are 7 experts, "
        "and the "
        "layer has 8; make them as many, or change either");
  CHECK_THAT(mistake("", {"moe.expert=6 feed_forward and 2 gated"}),
             StartsWith("--set moe.expert=6 feed_forward and 2 gated: ") && Contains("how many of each"));
}

TEST_CASE("every field is documented, unique, and in the written recipe", "[recipe]") {
  std::set<std::string> keys;
  Recipe recipe;
  const std::string text = to_toml(recipe, true);
  for (const settings::Table& table : settings::tables_of(recipe))
    for (const settings::Field& field : table.fields) {
      INFO(table.name << "." << field.key);
      CHECK(keys.insert(fmt::format("{}.{}", table.name, field.key)).second);
      CHECK(field.doc.size() > 20);
      CHECK(field.doc.back() != '.');
      CHECK_THAT(text, Contains(fmt::format("\n# {}.", field.doc)));
      CHECK_THAT(text, Contains(fmt::format("\n{} = ", field.key)));
    }
}

TEST_CASE("the error for an unknown key has file, line, nearest key and all keys", "[recipe]") {
  CHECK_THAT(
      mistake("[moe]\n\nexpertz = 3"),
      StartsWith("q.toml:3: moe.expertz: no such key; the nearest is moe.experts. Keys of [moe]: every, "
                 "experts, router,"));
  CHECK_THAT(mistake("[moe]\nlearning_rate = 3"), Contains("the nearest is train.learning_rate"));
  CHECK_THAT(
      mistake("experts = 3"),
      StartsWith("q.toml:1: experts: no such key outside a table; the nearest is moe.experts. Tables are: "
                 "run, data,"));
  CHECK_THAT(mistake("\n[mole]\nexperts = 3"),
             Equals("q.toml:2: [mole]: no such table; the nearest is "
                    "[moe]. Tables are: run, data, tasks, image, generate, "
                    "model, moe, train, privacy, quantization, parallel, checkpoint"));
  CHECK_THAT(mistake("[moe]\n\"a\\u001b[31m\" = 3"), Contains("a\\u001B[31m"));  // the escape is not printed
}

TEST_CASE("the error for a wrong type has the expected and the given type", "[recipe]") {
  CHECK(mistake("[moe]\nexperts = \"eight\"") ==
        "q.toml:2: moe.experts: expected an integer, got the string \"eight\"");
  CHECK(mistake("train.epochs = 3.0") == "q.toml:1: train.epochs: expected an integer, got the float 3.0");
  CHECK(mistake("run.seed = 1e30") == "q.toml:1: run.seed: expected an integer, got the float 1e+30");
  CHECK(mistake("train.warmup = true") == "q.toml:1: train.warmup: expected a number, got the boolean true");
  CHECK(mistake("run.name = 2020-01-01") == "q.toml:1: run.name: expected a string, got a date or time");
  CHECK(mistake("checkpoint.asynchronous = 1") ==
        "q.toml:1: checkpoint.asynchronous: expected true or false, got the integer 1");
  CHECK(mistake("moe.experts.x = 1") == "q.toml:1: moe.experts: expected an integer, got a table");
  CHECK(mistake("moe = 3") == "q.toml:1: moe: expected a table, [moe], got the integer 3");
  CHECK(mistake("[[moe]]\nexperts = 3") == "q.toml:1: moe: expected a table, [moe], got an array");
}

TEST_CASE("the error for a value out of range has the limits", "[recipe]") {
  CHECK(mistake("[moe]\nexperts = 0") == "q.toml:2: moe.experts = 0: must be between 1 and 4096");
  CHECK(mistake("run.seed = -1") == "q.toml:1: run.seed = -1: must be at least 0");
  CHECK(mistake("model.dropout = 1") == "q.toml:1: model.dropout = 1.0: must be between 0 and 0.95");
  CHECK(mistake("model.dropout = nan") == "q.toml:1: model.dropout = nan: must be between 0 and 0.95");
  CHECK(mistake("train.clip_norm = inf") ==
        "q.toml:1: train.clip_norm = inf: must be between 0 and 1000000000");
  CHECK(mistake("moe.experts = 9223372036854775807") ==
        "q.toml:1: moe.experts = 9223372036854775807: must be between 1 and 4096");
  CHECK(
      mistake("train.schedule = \"cosin\"") ==
      "q.toml:1: train.schedule = \"cosin\": must be one of constant, linear, cosine; the nearest is cosine");
  CHECK(mistake("run.precision = \"fp16\"") ==
        "q.toml:1: run.precision = \"fp16\": must be one of f32, tf32, bf16; the nearest is bf16");
  CHECK(mistake("run.directory = \"\"") == "q.toml:1: run.directory: must not be empty");
}

TEST_CASE("errors of TOML syntax have line and column", "[recipe]") {
  CHECK_THAT(mistake("[moe]\nexperts = \n"), StartsWith("q.toml:2: column "));
  CHECK_THAT(mistake("[moe]\nexperts = 1\nexperts = 2"),
             StartsWith("q.toml:3: column ") && Contains("cannot redefine existing integer 'experts'"));
  CHECK_THAT(mistake("[moe]\n[run]\n[moe]"), StartsWith("q.toml:3:") && Contains("cannot redefine"));
  CHECK_THAT(mistake("run.seed = 99999999999999999999"), StartsWith("q.toml:1: column "));
  CHECK_THAT(mistake("run.name = \"\xff\""), StartsWith("q.toml:1: column "));
}

TEST_CASE("all mistakes of a file are reported at once, in the order of lines", "[recipe]") {
  CHECK_THAT(mistake("[train]\nepochs = 1.5\n[moe]\nexpertz = 1\n[data]\npath = 3"),
             StartsWith("q.toml:2: train.epochs") && Contains("\nq.toml:4: moe.expertz") &&
                 Contains("\nq.toml:6: data.path"));
}

TEST_CASE("a mistake in --set is reported for --set", "[recipe]") {
  const auto set = [](const std::string& text) { return mistake("", {text}); };
  CHECK(set("moe.experts") == "--set moe.experts: expected key=value, as in --set moe.experts=16");
  CHECK(set("=3") == "--set =3: expected key=value, as in --set moe.experts=16");
  CHECK(set("moe.experts=eight") == "--set moe.experts=eight: moe.experts: expected an integer, got eight");
  CHECK(set("moe.experts=") == "--set moe.experts=: moe.experts: expected an integer, got nothing");
  CHECK(set("moe.experts=2.0") ==
        "--set moe.experts=2.0: moe.experts: expected an integer, got the float 2.0");
  CHECK_THAT(set("moe.experts=1\nmoe.top_k=1"), Contains("expected an integer"));
  CHECK_THAT(set("moe.exprts=3"), Contains("moe.exprts: no such key; the nearest is moe.experts"));
  CHECK_THAT(set("mo.experts=3"), Contains("[mo]: no such table; the nearest is [moe]"));
  CHECK_THAT(set("experts=3"), Contains("the nearest is moe.experts"));
  CHECK_THAT(set("moe=3"), Contains("moe is a table; set one of its keys: every, experts"));
  CHECK(set("moe.experts=0") == "--set moe.experts=0: moe.experts = 0: must be between 1 and 4096");
  CHECK_THAT(set("data.source=tabel"),
             Contains("must be one of wordnet, table, glue, fashion_mnist, "
                      "image_folder, emoji, coco, fashion_gloss; the nearest is table"));
}

TEST_CASE("errors about several fields have the line of a key in the file", "[recipe]") {
  CHECK(mistake("[model]\nhidden = 12\nheads = 5") ==
        "q.toml:3: model.heads = 5 does not divide model.hidden = 12; model.heads may be 1, 2, 3, 4, 6, 12");
  CHECK_THAT(mistake("\nmodel.hidden = 30"),
             StartsWith("q.toml:2: model.heads = 4 (default) does not divide model.hidden = 30;"));
  CHECK(mistake("moe.top_k = 3", {"moe.experts=2"}) ==
        "q.toml:1: moe.top_k = 3 is more than moe.experts = 2; moe.top_k may be 1 to 2");
  CHECK_THAT(mistake("", {"moe.experts=1"}), StartsWith("--set moe.experts=1: moe.top_k = 2 (default)"));
  CHECK(mistake("moe.k_min = 3") ==
        "q.toml:1: moe.k_min = 3 is more than moe.top_k = 2 (default); moe.k_min may be 1 to 2");
  CHECK_THAT(mistake("moe.top_p = 1.5"), Contains("must be between 0.001 and 1"));
  CHECK_THAT(mistake("moe.every = 3"), Contains("moe.every may be 1 to 2"));
  CHECK_THAT(mistake("train.batch_tokens = 64"), Contains("must be at least 128"));
  CHECK_THAT(mistake("data.source = \"table\""), StartsWith("q.toml:1:") && Contains("needs data.path"));
  CHECK_THAT(mistake("data.train = \"x.csv\""), Contains("but data.source = \"wordnet\" (default)"));
  const std::string table = "data.source = \"table\"\n";
  CHECK_THAT(mistake(table + "data.path = \"x\"\ndata.train = \"y\""), Contains("exclude each other"));
  CHECK_THAT(mistake(table + "data.path = \"x\"\ndata.test = \"y\""), Contains("go with data.train"));
  CHECK_THAT(mistake(table + "data.path = \"x\"\ndata.label_column = \"text\""), Contains("must differ"));
  CHECK(mistake(table + "data.train = \"x.csv\"\ndata.test = \"y.csv\"") == "");
}

TEST_CASE("data sources that need the user's files say what is missing", "[recipe]") {
  CHECK(mistake("data.source = \"glue\"") ==
        "q.toml:1: data.source = \"glue\" needs data.path, the folder of GLUE's tasks (CoLA, SST-2, ...), or "
        "of "
        "the task's train.tsv");
  const std::string glue = "data.source = \"glue\"\ndata.path = \"x\"\n";
  for (const GlueTask& task : glue_tasks())
    CHECK(mistake(glue, {fmt::format("data.task={}", task.name)}) == "");
  CHECK_THAT(mistake(glue + "data.task = \"colla\""), Contains("the nearest is cola"));
  CHECK(mistake(glue + "data.max_length = 2") == "");
  CHECK(mistake(glue + "data.max_length = 2\ndata.task = \"rte\"") ==
        "q.toml:3: data.max_length = 2 cannot hold a pair of texts, as data.task = \"rte\" has; at least 3");
  CHECK_THAT(mistake(glue + "data.domain = \"law\""), EndsWith("but data.source = \"glue\""));
  CHECK_THAT(mistake(glue + "data.synset_words = true"), Contains("but data.source = \"glue\""));

  CHECK_THAT(mistake("data.source = \"image_folder\"\nimage.size = 8"),
             Contains("needs data.path, a folder"));
  const std::string folder = "data.source = \"image_folder\"\ndata.path = \"x\"\n";
  CHECK_THAT(mistake(folder), StartsWith("q.toml:1: ") && Contains("set image.size"));
  CHECK(mistake(folder + "image.size = 8") == "");
  CHECK_THAT(mistake(folder + "image.size = 8\nmodel.bigrams = 1"), Contains("is for texts"));

  const std::string coco = "data.source = \"coco\"\ndata.classes = \"category\"\n";
  CHECK_THAT(mistake(coco + "image.size = 8"),
             Contains("needs data.path, the folder with COCO's annotations"));
  CHECK(mistake(coco + "image.size = 8\ndata.path = \"x\"") == "");
  CHECK_THAT(mistake(coco + "data.path = \"x\""), Contains("set image.size"));
  CHECK(mistake(coco + "data.path = \"x\"\ndata.inputs = \"text\"") == "");
  CHECK_THAT(mistake(coco + "image.size = 8\ndata.path = \"x\"\ndata.inputs = \"image\"\nmodel.bigrams = 1"),
             Contains("is for texts"));
  CHECK_THAT(mistake("data.source = \"coco\"\ndata.path = \"x\"\nimage.size = 8"),
             Contains("data.classes may be \"category\" or \"supercategory\""));
}

TEST_CASE("options for texts or for images only are refused without them", "[recipe]") {
  const std::string images = "data.source = \"fashion_mnist\"\n";
  CHECK(mistake(images) == "");
  CHECK(mistake(images + "train.batch_tokens = 64") == "");  // no limit, as there are no texts
  CHECK(mistake(images + "model.bigrams = 100") ==
        "q.toml:2: model.bigrams = 100 is for texts, of which data.source = \"fashion_mnist\" has none");
  CHECK_THAT(mistake(images + "model.token_dropout = 0.1"), StartsWith("q.toml:2: model.token_dropout"));
  CHECK_THAT(mistake(images + "train.masked_weight = 0.1"), StartsWith("q.toml:2: train.masked_weight"));
  CHECK(mistake("train.masked_weight = 0.1") ==
        "q.toml:1: train.masked_weight = 0.1 is for predicting hidden tokens, but model.token_dropout = 0.0 "
        "(default) hides none; set model.token_dropout above 0");
  CHECK(mistake("train.masked_weight = 0.1\nmodel.token_dropout = 0.1") == "");
  CHECK_THAT(mistake("data.inputs = \"image\""), Contains("data.inputs is for source = \"emoji\""));
  CHECK_THAT(mistake("tasks.caption = 1"),
             StartsWith("q.toml:1: tasks.caption = 1.0 is for data with images, of which data.source = "
                        "\"wordnet\" (default) has none"));
  CHECK_THAT(
      mistake(
          "tasks.generate = 1\ndata.source = \"emoji\"\ndata.inputs = \"text\"\ndata.classes = \"group\""),
      Contains("of which data.source = \"emoji\", data.inputs = \"text\", has none"));
  for (const auto* looks_ahead :
       {"router = \"attention\"", "gate = \"expert_choice\"\nmoe.balancer = \"none\""})
    CHECK_THAT(mistake("tasks.caption = 1\ndata.source = \"fashion_mnist\"\nmoe." + std::string(looks_ahead)),
               Contains("looks at later words"));
  CHECK_THAT(mistake("tasks.classify = 0"), Contains("[tasks] has none with a weight above 0"));
  CHECK_THAT(mistake("data.source = \"emoji\""), Contains("data.classes may be \"group\" or \"subgroup\""));
  const std::string emoji = "data.source = \"emoji\"\ndata.classes = \"group\"\n";
  CHECK(mistake(emoji) == "");
  CHECK(mistake(emoji + "data.inputs = \"text\"\nmodel.bigrams = 100") == "");
  CHECK_THAT(mistake(emoji + "data.inputs = \"image\"\nmodel.bigrams = 100"), Contains("is for texts"));
  for (const char* fusion : {"model.fusion = \"cross\"\n", "model.fusion = \"late\"\n"}) {
    CHECK(mistake(emoji + fusion) == "");
    CHECK(mistake(emoji + fusion + "data.inputs = \"image\"") == "");  // without texts, fusion is joint
  }
  CHECK(
      mistake(images + "model.fusion = \"cross\"") ==
      "q.toml:2: model.fusion = \"cross\" is for images with texts, but data.source = \"fashion_mnist\" has "
      "one of them alone; leave it \"joint\"");
  CHECK(mistake("data.source = \"fashion_gloss\"\nmodel.fusion = \"late\"\ndata.inputs = \"text\"") == "");
  CHECK_THAT(mistake(emoji + "model.fusion = \"early\""), Contains("must be one of joint, cross, late"));
  CHECK_THAT(mistake(emoji + "model.image_weight = 1"), Contains("must be between 0.001 and 0.999"));
  CHECK(mistake(emoji + "model.text_dropout = 0.3") == "");
  CHECK(mistake(images + "model.text_dropout = 0.3") ==
        "q.toml:2: model.text_dropout = 0.3 is for images with texts, but data.source = \"fashion_mnist\" "
        "has one "
        "of them alone");
  const std::string separate = "moe.modality_experts = \"separate\"\n";
  CHECK(mistake(emoji + separate + "moe.balancer = \"aux_loss\"") == "");
  CHECK_THAT(mistake(emoji + separate), Contains("set moe.balancer to \"aux_loss\" or \"none\""));
  CHECK_THAT(mistake(emoji + separate + "moe.balancer = \"none\"\nmoe.gate = \"expert_choice\""),
             Contains("set moe.gate to \"top_k\""));
  for (const char* few : {"moe.experts = 3", "moe.experts = 8\nmoe.top_k = 5"})
    CHECK_THAT(mistake(emoji + separate + "moe.balancer = \"none\"\n" + few),
               Contains("must be a whole number, and enough for"));
  CHECK_THAT(mistake(images + separate + "moe.balancer = \"none\""), Contains("leave it \"shared\""));
  CHECK_THAT(mistake("data.classes = \"group\""), Contains("data.classes may be \"noun\" or \"all\""));
  CHECK(mistake(images + "image.blocks = [\"k3 x2 c16\", \"k4 x2 c16\"]")
            .starts_with("q.toml:2: image.blocks"));
  CHECK_THAT(mistake(images + "image.norm = \"layer\""), Contains("must be one of group, batch"));
}

TEST_CASE("a recipe built in code is checked, too, without line numbers", "[recipe]") {
  Recipe recipe;
  recipe.moe.top_k = 9;
  CHECK_THROWS_WITH(check_recipe(recipe, "code"),
                    "code: moe.top_k = 9 is more than moe.experts = 8; moe.top_k may be 1 to 8");
}

TEST_CASE("experts must divide evenly among ranks, or the message lists valid sizes", "[recipe]") {
  const auto on = [](const std::string& text, int ranks) -> std::string {
    try {
      check_expert_parallel(parse_recipe(text, "q.toml"), "q.toml", ranks);
    } catch (const RecipeError& error) {
      return error.what();
    }
    return "";
  };
  for (const int ranks : {1, 2, 4, 8}) CHECK(on("", ranks) == "");
  CHECK(on("parallel.expert_parallel = 2", 6) == "");
  CHECK(on("moe.experts = 8", 6) ==
        "q.toml:1: parallel.expert_parallel = 0 (default), which is all 6 ranks, does not divide moe.experts "
        "= 8; "
        "with moe.experts = 8 on 6 ranks parallel.expert_parallel may be 1, 2, or make moe.experts a "
        "multiple of 6");
  CHECK(on("[parallel]\nexpert_parallel = 4", 6) ==
        "q.toml:2: parallel.expert_parallel = 4 does not divide 6 ranks; with moe.experts = 8 on 6 ranks "
        "parallel.expert_parallel may be 1, 2");
  CHECK_THAT(on("parallel.expert_parallel = 16", 8), Contains("does not divide 8 ranks"));
}

TEST_CASE("the error for a missing recipe lists those in the folder", "[recipe]") {
  CHECK_THROWS_WITH(read_recipe((kRecipes / "quik.toml").string()),
                    Contains("quik.toml: no such file; recipes there are:") && Contains("quick.toml") &&
                        Contains("wordnet.toml"));
  CHECK_THROWS_WITH(read_recipe(kRecipes.string()),
                    Contains("is a folder, not a recipe") && Contains("quick.toml"));
  CHECK_THROWS_AS(read_recipe("/dev/zero"), RecipeError);
  CHECK_THROWS_AS(read_recipe(""), RecipeError);
}

TEST_CASE("moe.domain_expert needs a domain and must be an existing expert", "[recipe]") {
  CHECK_THAT(
      mistake("[moe]\ndomain_expert = 1"),
      StartsWith("q.toml:2: moe.domain_expert = 1 has no texts to serve; single some out by data.domain, "
                 "such as \"medicine, anatomy, noun.body\""));
  CHECK_THAT(
      mistake("[data]\ndomain = \"law\"\n[moe]\nexperts = 4\ndomain_expert = 4"),
      Equals(
          "q.toml:5: moe.domain_expert = 4 is none of moe.experts = 4; moe.domain_expert may be 0 to 3, or "
          "-1 for none"));
  CHECK_THAT(
      mistake("[data]\ndomain_column = \"law\""),
      StartsWith("q.toml:2: data.domain_column is for source = \"table\", but data.source = \"wordnet\""));
}

TEST_CASE("the recipes of the repository are valid on 1, 2 and 4 ranks", "[recipe]") {
  int count = 0;
  for (const auto& entry : fs::directory_iterator(kRecipes)) {
    if (entry.path().extension() != ".toml") continue;
    const Recipe recipe = read_recipe(entry.path().string());
    for (const int ranks : {1, 2, 4}) CHECK_NOTHROW(check_expert_parallel(recipe, "", ranks));
    ++count;
  }
  CHECK(count >= 2);
}

TEST_CASE("privacy refuses options by which examples affect each other", "[recipe]") {
  const std::string on = "privacy.unit = \"record\"\nprivacy.epsilon = 3\n";
  const std::string images = on + "data.source = \"fashion_mnist\"\nmoe.balancer = \"none\"\n";
  CHECK(mistake(images).empty());
  CHECK_THAT(mistake("data.source = \"fashion_mnist\"\nmoe.balancer = \"none\"\nprivacy.unit = \"record\""),
             Contains("q.toml:3: privacy.unit = \"record\" wants noise"));
  CHECK_THAT(mistake(on + "data.source = \"fashion_mnist\""),
             Contains("moe.balancer = \"bias\" (default) with privacy.unit = \"record\": it routes"));
  for (const auto& [line, why] :
       {std::pair("image.norm = \"batch\"", "normalized together with the others of the batch"),
        std::pair("moe.gate = \"expert_choice\"", "choose among the tokens of all examples"),
        std::pair("moe.z_coefficient = 0.1", "a mean over the tokens of all examples"),
        std::pair("moe.entropy_coefficient = 0.1", "a mean over the tokens of all examples"),
        std::pair("model.share_layers = true", "uses a weight several times"),
        std::pair("train.accumulate = 2",
                  "privacy.batch decides how many batches are computed for a step")}) {
    CAPTURE(line);
    const std::string message = mistake(images + line);
    CHECK_THAT(message, StartsWith("q.toml:5: "));
    CHECK_THAT(message, Contains(why));
  }
  // What a private model's becomes by conclave quantize: it is used, and not trained.
  const Recipe quantized = parse_recipe(images + "quantization.enabled = true", "q.toml");
  CHECK_THROWS_WITH(check_trained(quantized, "q.toml"),
                    StartsWith("q.toml:5: quantization.enabled = true with privacy.unit = \"record\": "
                               "gradients of rounded weights are not available for each example"));
  CHECK_NOTHROW(check_trained(parse_recipe(images, "q.toml"), "q.toml"));
  const std::string texts = on + "moe.balancer = \"none\"\ntrain.start_from = \"runs/public\"\n";
  CHECK(mistake(texts).empty());
  CHECK_THAT(mistake(on + "moe.balancer = \"none\""), Contains("the tokenizer would be learned"));
  for (const auto& [line, why] : {std::pair("data.synset_words = true", "a synset is in two examples"),
                                  std::pair("model.bigrams = 100", "chosen from the training texts"),
                                  std::pair("model.token_dropout = 0.1\ntrain.masked_weight = 1",
                                            "which an example then uses twice")}) {
    CAPTURE(line);
    CHECK_THAT(mistake(texts + line), Contains(why));
  }
}
