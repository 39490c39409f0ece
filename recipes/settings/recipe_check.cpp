// The limits of every field, and what must hold between fields. A message begins with the place where a user
// wrote the offending key: the first of its keys that the file or a `--set` gave.
#include <algorithm>
#include <cmath>
#include <functional>
#include <initializer_list>
#include <numeric>
#include <tuple>

#include "data/glue.h"
#include "parallel/moe/balancer.h"
#include "parallel/moe/mixed_experts.h"
#include "recipes/settings/data_sources.h"
#include "recipes/settings/image_block.h"
#include "recipes/settings/recipe.h"
#include "recipes/settings/recipe_fields.h"
#include "recipes/settings/recipe_text.h"
#include "recipes/settings/settings_check.h"

namespace conclave {
namespace {

using namespace recipe_text;

using settings::Checker;

std::vector<std::int64_t> divisors(std::int64_t number) {
  std::vector<std::int64_t> found;
  for (std::int64_t d = 1; d <= number; ++d)
    if (number % d == 0) found.push_back(d);
  return found;
}

// "a", "b" or "c", each in quotes.
std::string quoted_or(const std::vector<std::string_view>& names) {
  std::string list;
  for (std::size_t i = 0; i < names.size(); ++i)
    list += fmt::format("{}\"{}\"", i == 0 ? "" : i + 1 == names.size() ? " or " : ", ", names[i]);
  return list;
}

template <class Predicate>
std::string sources_that(const Predicate& predicate) {
  std::vector<std::string_view> names;
  for (const DataSource& source : data_sources())
    if (std::invoke(predicate, source)) names.push_back(source.name);
  return quoted_or(names);
}

void check_model(const ModelRecipe& model, Checker& check) {
  if (model.hidden % model.heads != 0)
    check.fail({"model.heads", "model.hidden"}, "{} does not divide {}; model.heads may be {}",
               check.shown("model.heads", model.heads), check.shown("model.hidden", model.hidden),
               joined(divisors(model.hidden)));
  check.require(model.embedding <= model.hidden, {"model.embedding", "model.hidden"},
                "{} is more than {}; model.embedding may be 1 to {}, or 0 for tables as wide as hidden",
                check.shown("model.embedding", model.embedding), check.shown("model.hidden", model.hidden),
                model.hidden);
}

void check_routing(const MoeRecipe& moe, const ModelRecipe& model, Checker& check) {
  if (moe.router.starts_with("attention") && model.hidden % moe.router_heads != 0)
    check.fail({"moe.router_heads", "model.hidden"}, "{} does not divide {}; moe.router_heads may be {}",
               check.shown("moe.router_heads", moe.router_heads), check.shown("model.hidden", model.hidden),
               joined(divisors(model.hidden)));
  check.require(moe.route_cache_mib == 0 || moe.router != "linear", {"moe.route_cache_mib", "moe.router"},
                "{} with {}, which scores each token on its own in no more time than a look-up takes; set "
                "moe.route_cache_mib to 0, or moe.router to \"attention\" or \"attention_token\"",
                check.shown("moe.route_cache_mib", moe.route_cache_mib),
                check.shown("moe.router", moe.router));
  check.require(moe.top_k <= moe.experts, {"moe.top_k", "moe.experts"},
                "{} is more than {}; moe.top_k may be 1 to {}", check.shown("moe.top_k", moe.top_k),
                check.shown("moe.experts", moe.experts), moe.experts);
  check.require(moe.k_min <= moe.top_k, {"moe.k_min", "moe.top_k"},
                "{} is more than {}; moe.k_min may be 1 to {}", check.shown("moe.k_min", moe.k_min),
                check.shown("moe.top_k", moe.top_k), moe.top_k);
  const bool experts_choose = moe.gate == "expert_choice";
  check.require(!experts_choose || moe.balancer == "none", {"moe.gate", "moe.balancer"},
                "{} with {}: loads are even by construction; set moe.balancer to \"none\"",
                check.shown("moe.gate", moe.gate), check.shown("moe.balancer", moe.balancer));
  check.require(!experts_choose || moe.top_p == 1, {"moe.top_p", "moe.gate"},
                "{} is for gate \"top_k\", but {}; set moe.top_p to 1", check.shown("moe.top_p", moe.top_p),
                check.shown("moe.gate", moe.gate));
}

void check_experts(const Recipe& recipe, Checker& check) {
  const auto& [data, moe, model] = std::tie(recipe.data, recipe.moe, recipe.model);
  check.require(moe.every <= model.layers, {"moe.every", "model.layers"},
                "{} leaves none of {} with experts; moe.every may be 1 to {}",
                check.shown("moe.every", moe.every), check.shown("model.layers", model.layers), model.layers);
  check.require(moe.domain_expert < moe.experts, {"moe.domain_expert", "moe.experts"},
                "{} is none of {}; moe.domain_expert may be 0 to {}, or -1 for none",
                check.shown("moe.domain_expert", moe.domain_expert), check.shown("moe.experts", moe.experts),
                moe.experts - 1);
  check.require(
      moe.domain_expert < 0 || !data.domain.empty() || !data.domain_column.empty(), {"moe.domain_expert"},
      "{} has no texts to serve; single some out by {}", check.shown("moe.domain_expert", moe.domain_expert),
      data.domain_key() == "domain_column" ? "data.domain_column"
                                           : "data.domain, such as \"medicine, anatomy, noun.body\"");
  try {
    expert_shares(moe.expert, moe.experts);
  } catch (const Error& error) {
    check.fail({"moe.expert", "moe.experts"}, "{}, {}: {}", check.shown("moe.expert", moe.expert),
               check.shown("moe.experts", moe.experts), error.what());
  }
}

void check_data(const DataRecipe& data, Checker& check) {
  const DataSource& of = data_source(data.source);
  const std::string source = check.shown("data.source", data.source);
  const bool split_files = !data.validation.empty() || !data.test.empty();
  if (of.reads("train")) {
    check.require(!data.path.empty() || !data.train.empty(), {"data.source"},
                  "{} needs data.path (one file to split) or data.train (with data.validation and data.test)",
                  source);
    check.require(data.path.empty() || data.train.empty(), {"data.train", "data.path"},
                  "data.path and data.train exclude each other: one file to split, or a file per split");
    check.require(data.text_column != data.label_column, {"data.label_column", "data.text_column"},
                  "{} and {} must differ", check.shown("data.text_column", data.text_column),
                  check.shown("data.label_column", data.label_column));
    check.require(!split_files || !data.train.empty() || data.path.empty(), {"data.validation", "data.test"},
                  "data.validation and data.test go with data.train, not with data.path");
  }
  check.require(data.part < data.parts, {"data.part", "data.parts"},
                "{} of {}: parts are numbered from 0 to {}", check.shown("data.part", data.part),
                check.shown("data.parts", data.parts), data.parts - 1);
  const auto only_for = [&](std::string_view key, bool given, std::string_view instead = "") {
    const std::string full = fmt::format("data.{}", key);
    check.require(!given || of.reads(key), {full, "data.source"}, "{} is for source = {}, but {}{}", full,
                  sources_that([&](const DataSource& one) { return one.reads(key); }), source, instead);
  };
  only_for("synset_words", data.synset_words);
  only_for("domain", !data.domain.empty(),
           of.reads("domain_column") ? "; name a column in data.domain_column" : "");
  only_for("domain_column", !data.domain_column.empty(), "; name topics in data.domain");
  only_for("client_column", !data.client_column.empty());
  check.require(of.reads("train") || (data.train.empty() && !split_files),
                {"data.train", "data.validation", "data.test"},
                "data.train, data.validation and data.test are for source = {}, but {}",
                sources_that([](const DataSource& one) { return one.reads("train"); }), source);
}

// What the field's standard formats need, for which there is no default folder.
void check_own_copy(const Recipe& recipe, Checker& check) {
  const DataRecipe& data = recipe.data;
  const DataSource& of = data_source(data.source);
  const std::string source = check.shown("data.source", data.source);
  check.require(of.needs_path.empty() || !data.path.empty(), {"data.source"}, "{} needs data.path, {}",
                source, of.needs_path);
  check.require(
      !data.has_images() || !of.sizes_differ || recipe.image.size > 0, {"image.size", "data.source"},
      "{} has images of every size; set image.size to the pixels a side that they get, such as 64", source);
  check.require(!of.is_glue || !glue_task(data.task).has_pairs() || data.max_length > 2,
                {"data.max_length", "data.task"}, "{} cannot hold a pair of texts, as {} has; at least 3",
                check.shown("data.max_length", data.max_length), check.shown("data.task", data.task));
}

void check_batches(const Recipe& recipe, Checker& check) {
  const auto& [data, train] = std::tie(recipe.data, recipe.train);
  check.require(!data.has_texts() || data.max_length <= train.batch_tokens,
                {"train.batch_tokens", "data.max_length"},
                "{} cannot hold one text of {}; train.batch_tokens must be at least {}",
                check.shown("train.batch_tokens", train.batch_tokens),
                check.shown("data.max_length", data.max_length), data.max_length);
}

// What only texts, or only images, have.
void check_modalities(const Recipe& recipe, Checker& check) {
  const DataRecipe& data = recipe.data;
  const std::string source = check.shown("data.source", data.source);
  const std::vector<std::string_view>& classes = data_source(data.source).classes;
  check.require(classes.empty() || std::ranges::find(classes, data.classes) != classes.end(),
                {"data.classes", "data.source"}, "{} with {}: data.classes may be {}",
                check.shown("data.classes", data.classes), source, quoted_or(classes));
  check.require(data.may_have_both() || data.inputs == "both", {"data.inputs", "data.source"},
                "data.inputs is for source = {}, but {}", sources_that(&DataSource::has_both), source);
  for (const std::string& block : recipe.image.blocks) try {
      image_block(block);
    } catch (const Error& error) {
      check.fail({"image.blocks"}, "image.blocks: {}", error.what());
    }
  const TasksRecipe& tasks = recipe.tasks;
  check.require(!tasks.trained().empty(), {"tasks.classify", "tasks.caption", "tasks.generate"},
                "[tasks] has none with a weight above 0");
  for (const TaskKind task : tasks.trained()) {
    const std::string key = fmt::format("tasks.{}", name_of(task));
    const std::string shown = check.shown(key, tasks.weight(task));
    const bool causal = traits_of(task).causal;
    check.require(!causal || (recipe.moe.router != "attention" && recipe.moe.router != "attention_token"),
                  {"moe.router", key},
                  "{} looks at later words, which {} has to predict; set moe.router to \"linear\"",
                  check.shown("moe.router", recipe.moe.router), shown);
    check.require(!causal || recipe.moe.gate == "top_k", {"moe.gate", key},
                  "{} looks at later words, which {} has to predict; set moe.gate to \"top_k\"",
                  check.shown("moe.gate", recipe.moe.gate), shown);
    check.require(!traits_of(task).captions || data.has_images(), {key, "data.source", "data.inputs"},
                  "{} is for data with images, of which {}{} has none", shown, source,
                  data.may_have_both() ? ", " + check.shown("data.inputs", data.inputs) + "," : "");
  }
  const auto for_texts = [&](std::string_view key, auto value, bool has_texts) {
    check.require(has_texts || value == 0, {key, "data.source"}, "{} is for texts, of which {} has none",
                  check.shown(key, value), source);
  };
  for_texts("model.embedding", recipe.model.embedding, recipe.has_texts());  // all tasks share the tables
  for_texts("model.token_dropout", recipe.model.token_dropout, data.has_texts());
  check.require(data.may_have_both() || recipe.model.text_dropout == 0, {"model.text_dropout", "data.source"},
                "{} is for images with texts, but {} has one of them alone",
                check.shown("model.text_dropout", recipe.model.text_dropout), source);
  for_texts("model.bigrams", recipe.model.bigrams, data.has_texts());
  for_texts("train.masked_weight", recipe.train.masked_weight, data.has_texts());
  check.require(recipe.train.masked_weight == 0 || recipe.model.token_dropout > 0,
                {"train.masked_weight", "model.token_dropout"},
                "{} is for predicting hidden tokens, but {} hides none; set model.token_dropout above 0",
                check.shown("train.masked_weight", recipe.train.masked_weight),
                check.shown("model.token_dropout", recipe.model.token_dropout));
  check.require(data.may_have_both() || recipe.model.fusion == "joint", {"model.fusion", "data.source"},
                "{} is for images with texts, but {} has one of them alone; leave it \"joint\"",
                check.shown("model.fusion", recipe.model.fusion), source);
}

void check_modality_experts(const Recipe& recipe, Checker& check) {
  const MoeRecipe& moe = recipe.moe;
  if (moe.modality_experts == "shared") return;
  const std::string separate = check.shown("moe.modality_experts", moe.modality_experts);
  check.require(recipe.data.may_have_both() || (recipe.data.has_images() && recipe.has_texts()),
                {"moe.modality_experts", "data.source"},
                "{} is for images with texts, but {} has one of them alone; leave it \"shared\"", separate,
                check.shown("data.source", recipe.data.source));
  check.require(moe.experts % 2 == 0 && moe.top_k <= moe.experts / 2,
                {"moe.modality_experts", "moe.experts", "moe.top_k"},
                "{}: half of {} must be a whole number, and enough for {}", separate,
                check.shown("moe.experts", moe.experts), check.shown("moe.top_k", moe.top_k));
  check.require(moe.gate == "top_k", {"moe.modality_experts", "moe.gate"},
                "{} with {}, where experts choose rows of either; set moe.gate to \"top_k\"", separate,
                check.shown("moe.gate", moe.gate));
}

// What a balancer's kind cannot be combined with. The kind must be known.
void check_balancer_kind(const MoeRecipe& moe, Checker& check) {
  const auto balancer = make_balancer(moe.balancer, 1, {});
  check.require(
      !moe.balance_inference || balancer->corrects_batches(), {"moe.balance_inference", "moe.balancer"},
      "{} is for balancers that correct each batch, as \"grad_norm\" does, but {}; set one of them to the "
      "other's",
      check.shown("moe.balance_inference", moe.balance_inference), check.shown("moe.balancer", moe.balancer));
  check.require(moe.modality_experts != "separate" || !balancer->follows_loads(),
                {"moe.modality_experts", "moe.balancer"},
                "{} with {}, which gives all experts the same load, but a modality uses only half of them; "
                "set moe.balancer to \"aux_loss\" or \"none\"",
                check.shown("moe.modality_experts", moe.modality_experts),
                check.shown("moe.balancer", moe.balancer));
}

// Refuses what lets one example change the gradient of others, and what is learned from examples without
// noise.
void check_privacy(const Recipe& recipe, Checker& check) {
  const auto& [privacy, model, moe, train] = std::tie(recipe.privacy, recipe.model, recipe.moe, recipe.train);
  if (!privacy.is_on()) return;
  const std::string on = check.shown("privacy.unit", privacy.unit);
  check.require(!privacy.of_clients() || !recipe.data.client_column.empty(),
                {"data.client_column", "privacy.unit"},
                "{}: which client does a row belong to? Name the column of a table that says so in "
                "data.client_column, or take \"record\"",
                on);
  const auto refuse = [&](bool wrong, std::string_view key, const auto& value, const std::string& why,
                          const std::string& instead) {
    check.require(!wrong, {key, "privacy.unit"}, "{} with {}: {}; {}", check.shown(key, value), on, why,
                  instead);
  };
  check.require(privacy.noise_multiplier > 0 || privacy.epsilon > 0,
                {"privacy.noise_multiplier", "privacy.epsilon", "privacy.unit"},
                "{} wants noise: set privacy.epsilon, the budget, or privacy.noise_multiplier, or both", on);
  refuse(recipe.run.trace_step > 0, "run.trace_step", recipe.run.trace_step,
         "what a step did when tells how many examples were drawn for it", "set it to 0");
  refuse(recipe.data.has_images() && recipe.image.norm == "batch", "image.norm", recipe.image.norm,
         "an image is normalized together with the others of the batch, and so changes their gradients",
         "set it to \"group\"");
  refuse(moe.balancer != "none", "moe.balancer", moe.balancer,
         "it routes an example's tokens depending on other examples", "set it to \"none\"");
  refuse(moe.gate != "top_k", "moe.gate", moe.gate, "experts choose among the tokens of all examples",
         "set it to \"top_k\"");
  for (const auto& [key, value] : {std::pair("moe.z_coefficient", moe.z_coefficient),
                                   {"moe.entropy_coefficient", moe.entropy_coefficient},
                                   {"moe.domain_prior", moe.domain_expert < 0 ? 0 : moe.domain_prior}})
    refuse(value > 0, key, value, "the loss is a mean over the tokens of all examples", "set it to 0");
  refuse(model.share_layers && model.layers > moe.every, "model.share_layers", model.share_layers,
         "an example uses a weight several times, and the norm of its gradient cannot be computed from the "
         "parts",
         "set it to false");
  refuse(recipe.data.has_texts() && recipe.data.has_images() && model.fusion != "joint", "model.fusion",
         model.fusion, "one example uses its weights several times", "set it to \"joint\"");
  refuse(train.masked_weight > 0, "train.masked_weight", train.masked_weight,
         "the weight of the predictions is the token embedding, which an example then uses twice",
         "set it to 0");
  refuse(model.bigrams > 0, "model.bigrams", model.bigrams, "they are chosen from the training texts",
         "set it to 0");
  refuse(recipe.has_texts() && train.start_from.empty(), "train.start_from", train.start_from,
         "the tokenizer would be learned from the training texts, without noise",
         "name a model of public texts, whose tokenizer and weights are then the start");
  for (const TaskKind task : recipe.tasks.trained())
    refuse(!traits_of(task).losses_per_example, fmt::format("tasks.{}", name_of(task)),
           recipe.tasks.weight(task),
           fmt::format("it is for {} alone, so far", quoted_or(tasks_that(&TaskTraits::losses_per_example))),
           "set it to 0");
  refuse(data_source(recipe.data.source).shares_images, "data.source", recipe.data.source,
         "a photograph is in as many examples as it has captions",
         "use data in which each record is one example");
  refuse(recipe.data.synset_words, "data.synset_words", recipe.data.synset_words,
         "a synset is in two examples, its gloss and its words", "set it to false");
  refuse(train.accumulate != 1, "train.accumulate", train.accumulate,
         "privacy.batch decides how many batches are computed for a step", "set it to 1");
}

}  // namespace

void check_balancer(const Recipe& recipe, const std::string& name) {
  Checker check(recipe.origin, name);
  check_balancer_kind(recipe.moe, check);
  check.finish();
}

void check_trained(const Recipe& recipe, const std::string& name) {
  Checker check(recipe.origin, name);
  check.require(
      !recipe.privacy.is_on() || !recipe.quantization.enabled, {"quantization.enabled", "privacy.unit"},
      "{} with {}: gradients of rounded weights are not available for each example; set it to false, and "
      "quantize the trained model by conclave quantize",
      check.shown("quantization.enabled", recipe.quantization.enabled),
      check.shown("privacy.unit", recipe.privacy.unit));
  check.finish();
}

void check_meant(const Recipe& recipe, const std::string& name) {
  const PrivacyRecipe& privacy = recipe.privacy;
  Checker check(recipe.origin, name);
  const auto without_unit = [&](std::string_view key, const auto& value, bool given) {
    check.require(privacy.is_on() || !given, {key, "privacy.unit"},
                  "{} with privacy.unit = \"none\": nothing would be hidden; set privacy.unit to \"record\", "
                  "or to \"client\" for all rows of one person",
                  check.shown(key, value));
  };
  without_unit("privacy.epsilon", privacy.epsilon, privacy.epsilon > 0);
  without_unit("privacy.noise_multiplier", privacy.noise_multiplier, privacy.noise_multiplier > 0);
  without_unit("privacy.ledger", privacy.ledger, !privacy.ledger.empty());
  check.require(
      recipe.image.size == 0 || recipe.image.shift < recipe.image.size, {"image.size", "image.shift"},
      "{} with {}: some pictures would be shifted out of sight; make image.shift less than image.size",
      check.shown("image.size", recipe.image.size), check.shown("image.shift", recipe.image.shift));
  check.finish();
}

void check_recipe(const Recipe& recipe, const std::string& name) {
  Checker check(recipe.origin, name);
  Recipe checked = recipe;  // tables are of settings that may be changed
  check.check_limits(settings::tables_of(checked));

  check_model(recipe.model, check);
  check_routing(recipe.moe, recipe.model, check);
  check_experts(recipe, check);
  check_data(recipe.data, check);
  check_batches(recipe, check);
  check_own_copy(recipe, check);
  check_modalities(recipe, check);
  check_modality_experts(recipe, check);
  // A kind that is unknown here may be that of a plug-in, see load_plugins().
  if (std::ranges::count(balancer_kinds(), recipe.moe.balancer) > 0) check_balancer_kind(recipe.moe, check);
  check_privacy(recipe, check);
  check.finish();
}

void check_expert_parallel(const Recipe& recipe, const std::string& name, int ranks) {
  const std::int64_t given = recipe.parallel.expert_parallel;
  const std::int64_t experts = recipe.moe.experts;
  const std::int64_t group = given == 0 ? ranks : given;
  const bool divides_ranks = group <= ranks && ranks % group == 0;
  if (divides_ranks && experts % group == 0) return;

  Checker check(recipe.origin, name);
  const std::string size = check.shown("parallel.expert_parallel", given) +
                           (given == 0 ? fmt::format(", which is all {} ranks,", ranks) : std::string());
  const std::string broken =
      !divides_ranks ? fmt::format("{} ranks", ranks) : check.shown("moe.experts", experts);
  check.fail({"parallel.expert_parallel", "moe.experts"},
             "{} does not divide {}; with moe.experts = {} on {} ranks parallel.expert_parallel may be {}{}",
             size, broken, experts, ranks, joined(divisors(std::gcd(experts, std::int64_t{ranks}))),
             divides_ranks ? fmt::format(", or make moe.experts a multiple of {}", group) : std::string());
  check.finish();
}

}  // namespace conclave
