#include "recipes/service/model_engine.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "core/clock.h"

namespace conclave::service {
namespace {

// [values.size()] of them, borrowed.
template <class T>
Tensor borrow(std::vector<T>& values, DType dtype) {
  return Tensor::borrow(values.data(), {static_cast<Index>(values.size())}, dtype);
}

// [1, bytes] of them, borrowed.
template <class T>
Tensor bytes_of(T* values, std::size_t count) {
  static_assert(std::is_trivially_copyable_v<T>);
  return Tensor::borrow(values, {1, static_cast<Index>(count * sizeof(T))}, DType::u8);
}

// Part `rank` of `count` things that are divided among ranks.
std::size_t part(std::size_t count, int rank, int ranks) {
  return count * static_cast<std::size_t>(rank) / static_cast<std::size_t>(ranks);
}

std::string missing_task(const Recipe& recipe, TaskKind task) {
  const std::string_view wanted = task == TaskKind::embed ? "classify" : name_of(task);
  return fmt::format("the model has not learned to {0}{1}; train one with --set tasks.{0}=1{2}", wanted,
                     task == TaskKind::embed ? ", whose vectors are what embed tells" : "",
                     wanted == "classify" || recipe.data.has_images() ? "" : ", on data that have images");
}

}  // namespace

// A batch as all ranks have it, and what came of it. Its vectors keep their memory.
struct ModelEngine::Round {
  struct Item {
    std::int64_t tokens, pixels;  // how many, of the arrays below
    std::int64_t number;          // of a query's images
    std::uint64_t seed;
  };
  // What ranks are told first; no items: it was the last.
  struct Head {
    TaskKind task;
    bool experts;  // are counted
    std::int64_t items, tokens, pixels;
    CaptionOptions caption;
    SamplerOptions sampling;
  };
  Head head{};
  std::vector<Item> items;  // a query each, or an image to be drawn
  std::vector<std::int32_t> tokens;
  std::vector<std::uint8_t> pixels;

  std::vector<PeerRows> others;  // ranks
  Batch batch;
  std::vector<ImageSampler::Drawing> drawings;
  std::vector<float> scores;            // [items, classes + width]
  std::vector<std::uint8_t> images;     // [items, bytes of one]
  std::vector<WrittenCaption> written;  // [items], and more
  std::vector<Index> experts;           // [layers x experts]
  std::int64_t computed = 0;            // rows, of all ranks together
  std::size_t width = 0;                // of scores
};

ModelEngine::ModelEngine(LoadedModel& model, const ProcessGrid& grid, const std::string& name,
                         const std::vector<std::string>& tasks, const BatchLimits& limits)
    : model_(model), grid_(grid), layers_(model.model().moe_layers()), round_(std::make_unique<Round>()) {
  facts_.name = name;
  facts_.class_names = model.class_names();
  facts_.texts = model.recipe().data.has_texts();
  facts_.images = model.recipe().data.has_images();
  facts_.max_length = model.recipe().data.max_length;
  for (const auto& [name, layer] : layers_) facts_.layer_names.push_back(name);
  facts_.experts = layers_.empty() ? 0 : std::ssize(layers_.front().second->statistics().load);
  choose_tasks(tasks);
  plan(limits);
}

void ModelEngine::choose_tasks(const std::vector<std::string>& wanted) {
  Model& model = model_.model();
  const std::array<bool, kTaskNames.size()> can{model.classifier() != nullptr, model.captioner() != nullptr,
                                                model.generator() != nullptr, model.classifier() != nullptr};
  facts_.tasks = can;
  if (!wanted.empty()) facts_.tasks.fill(false);
  for (const std::string& name : wanted) {
    const auto found = std::ranges::find(kTaskNames, name);
    require(found != kTaskNames.end(), "--tasks {}: there is no such task; there are {}", name,
            fmt::join(kTaskNames, ", "));
    const auto task = static_cast<std::size_t>(found - kTaskNames.begin());
    require(can[task], "--tasks {}: {}", name, missing_task(model_.recipe(), static_cast<TaskKind>(task)));
    facts_.tasks[task] = true;
  }
  if (facts_.can(TaskKind::classify) || facts_.can(TaskKind::embed)) predictor_.emplace(model_, grid_);
  if (facts_.can(TaskKind::caption)) captions_.emplace(model_, grid_);
  if (facts_.can(TaskKind::generate)) images_.emplace(model_, grid_);
}

// Passes are planned where they can be; what else takes memory takes it in a first batch of each task, as
// large as there can be.
void ModelEngine::plan(const BatchLimits& limits) {
  const ModelSizes& sizes = model_.model().sizes();
  for (int rank = 1; rank < grid_.world().size(); ++rank) round_->others.push_back({rank, 0, 1});
  round_->experts.resize(layers_.size() * static_cast<std::size_t>(facts_.experts));
  Query query{.tokens = std::vector<std::int32_t>(static_cast<std::size_t>(sizes.max_length))};
  const std::vector<std::uint8_t> pixels(static_cast<std::size_t>(sizes.image.size()));
  if (predictor_) {
    const Index image = predictor_->image_tokens();
    const Index rows = std::max(limits.rows, sizes.max_length + image);
    planned_ = predictor_->plan(limits.jobs, rows);
    query.tokens.resize(facts_.texts ? query.tokens.size() : 0);
    if (image > 0) query.pixels = pixels;
    warm(query, std::clamp<Index>(rows / (std::ssize(query.tokens) + image), 1, limits.jobs));
  }
  if (captions_) warm({.task = TaskKind::caption, .pixels = pixels}, limits.jobs);
  query.task = TaskKind::generate, query.sampling.steps = 1, query.pixels.clear();
  query.tokens.resize(static_cast<std::size_t>(sizes.max_length));
  if (images_) warm(query, std::max<Index>(limits.jobs, ImageSampler::kImages * grid_.world().size()));
}

void ModelEngine::warm(const Query& query, Index count) {
  Job job(query);
  fill_round(std::vector<Job*>(static_cast<std::size_t>(count), &job));
  compute_round();
}

InputShape ModelEngine::input_shape() const {
  return {.tokenizer = model_.tokenizer() ? &*model_.tokenizer() : nullptr,
          .max_length = model_.recipe().data.max_length,
          .image = model_.model().sizes().image,
          .classifies_texts = facts_.texts,
          .classifies_images = facts_.images};
}

void ModelEngine::prepare(Job& job) const {
  const Query& query = job.query;
  Answer& answer = job.answer;
  const auto tokens = std::ssize(query.tokens);
  if (query.experts) answer.experts.resize(round_->experts.size());
  switch (query.task) {
    case TaskKind::classify:
    case TaskKind::embed:
      answer.probabilities.reserve(facts_.class_names.size());
      answer.embedding.reserve(static_cast<std::size_t>(predictor_->features()));
      job.rows = tokens + (query.pixels.empty() ? 0 : predictor_->image_tokens());
      break;
    case TaskKind::caption: {
      const CaptionOptions& options = query.caption;
      const Index most = options.max_tokens > 0 ? options.max_tokens : model_.recipe().data.max_length;
      answer.tokens.reserve(static_cast<std::size_t>(most));
      job.rows = model_.model().captioner()->image_tokens() + options.beam * most;
      break;
    }
    case TaskKind::generate:
      answer.images.assign(
          static_cast<std::size_t>(query.count),
          {images_->shape(), std::vector<std::uint8_t>(static_cast<std::size_t>(images_->shape().size()))});
      job.rows = 2 * query.count * (images_->image_tokens() + tokens);
      break;
  }
}

void ModelEngine::finish(Job& job) const {
  if (job.query.task == TaskKind::caption) job.answer.caption = model_.tokenizer()->decode(job.answer.tokens);
}

EngineWork ModelEngine::answer(std::span<Job* const> jobs) {
  const double start = now();
  fill_round(jobs);
  share_round();
  compute_round();
  hand_out(jobs);
  EngineWork work{.rows = round_->computed};
  for (const auto& [name, layer] : layers_) {
    work.routing_seconds += layer->statistics().routing_seconds;
    if (RouteCache* cache = layer->route_cache()) {
      work.cache_hits += cache->statistics().hits;
      work.cache_misses += cache->statistics().misses;
      cache->reset_statistics();
    }
  }
  work.seconds = now() - start;
  return work;
}

void ModelEngine::fill_round(std::span<Job* const> jobs) {
  Round& round = *round_;
  const Query none, &first = jobs.empty() ? none : jobs.front()->query;
  round.items.clear(), round.tokens.clear(), round.pixels.clear();
  for (const Job* job : jobs) {
    const Query& query = job->query;
    const Index images = query.task == TaskKind::generate ? query.count : 1;
    for (Index image = 0; image < images; ++image) {
      round.items.push_back({std::ssize(query.tokens), std::ssize(query.pixels), image, query.sampling.seed});
      round.tokens.insert(round.tokens.end(), query.tokens.begin(), query.tokens.end());
      round.pixels.insert(round.pixels.end(), query.pixels.begin(), query.pixels.end());
    }
  }
  round.head = {.task = first.task,
                .experts = first.experts,
                .items = std::ssize(round.items),
                .tokens = std::ssize(round.tokens),
                .pixels = std::ssize(round.pixels),
                .caption = first.caption,
                .sampling = first.sampling};
}

// Rank 0 says what there is to compute; the others wait for it.
void ModelEngine::share_round() {
  Communicator& world = grid_.world();
  if (world.size() == 1) return;
  Round& round = *round_;
  const Tensor head = bytes_of(&round.head, 1);
  if (world.rank() == 0) {
    world.start_exchange(head, round.others, head, {}).wait();
  } else {
    const std::array<PeerRows, 1> first{{{0, 0, 1}}};
    Request request = world.start_exchange(head, {}, head, first);
    // MPI would keep a core busy with waiting. What comes soon finds this rank awake, what comes late waits
    // for up to a millisecond.
    for (const double began = now(); !request.test();)
      if (const double idle = now() - began; idle > 1e-3)
        std::this_thread::sleep_for(std::chrono::duration<double>(std::clamp(idle / 20, 1e-4, 1e-3)));
  }
  round.items.resize(static_cast<std::size_t>(round.head.items));
  round.tokens.resize(static_cast<std::size_t>(round.head.tokens));
  round.pixels.resize(static_cast<std::size_t>(round.head.pixels));
  for (const Tensor& part :
       {bytes_of(round.items.data(), round.items.size()), bytes_of(round.tokens.data(), round.tokens.size()),
        bytes_of(round.pixels.data(), round.pixels.size())})
    if (part.numel() > 0) world.broadcast(part, 0);
}

void ModelEngine::follow() {
  for (;;) {
    share_round();
    if (round_->items.empty()) return;
    compute_round();
  }
}

ModelEngine::~ModelEngine() {
  if (grid_.world().rank() != 0 || std::uncaught_exceptions() > 0) return;
  fill_round({});
  share_round();
}

void ModelEngine::compute_round() {
  for (const auto& [name, layer] : layers_) layer->reset_statistics();
  switch (round_->head.task) {
    case TaskKind::classify:
    case TaskKind::embed:
      compute_scores();
      break;
    case TaskKind::caption:
      compute_captions();
      break;
    case TaskKind::generate:
      compute_images();
      break;
  }
  if (round_->head.experts) count_experts();
}

// Each rank has a run of the sequences, and 0 for the others until all are added up.
void ModelEngine::compute_scores() {
  Round& round = *round_;
  Communicator& world = grid_.world();
  const std::size_t first = part(round.items.size(), world.rank(), world.size()),
                    last = part(round.items.size(), world.rank() + 1, world.size());
  Batch& batch = round.batch;
  batch.clear();
  std::size_t token = 0, pixel = 0;
  Index before = 0;
  for (std::size_t i = 0; i < round.items.size(); ++i) {
    const Round::Item& item = round.items[i];
    const auto tokens = static_cast<std::size_t>(item.tokens), pixels = static_cast<std::size_t>(item.pixels);
    const Index rows = item.tokens + (pixels > 0 ? predictor_->image_tokens() : 0);
    if (i < first) before += rows;
    if (i >= first && i < last)
      predictor_->add(std::span(round.tokens).subspan(token, tokens),
                      std::span(round.pixels).subspan(pixel, pixels), batch);
    batch.global_tokens += rows;
    batch.global_images += pixels > 0;
    token += tokens, pixel += pixels;
  }
  batch.first_token = before, batch.first_sequence = static_cast<Index>(first);
  batch.global_sequences = std::ssize(round.items);
  const Predictor::Scores scores = predictor_->scores(batch);
  round.computed = batch.global_tokens;
  const auto classes = static_cast<std::size_t>(scores.probabilities.size(1)),
             features = static_cast<std::size_t>(scores.features.size(1));
  round.width = classes + features;
  round.scores.assign(round.items.size() * round.width, 0);
  const float *probability = scores.probabilities.data<float>(), *feature = scores.features.data<float>();
  for (std::size_t i = first; i < last; ++i, probability += classes, feature += features) {
    const auto to = round.scores.begin() + static_cast<std::ptrdiff_t>(i * round.width);
    std::copy_n(feature, features, std::copy_n(probability, classes, to));
  }
  if (world.size() > 1) world.all_reduce(borrow(round.scores, DType::f32));
}

void ModelEngine::compute_captions() {
  Round& round = *round_;
  const auto images = std::ssize(round.items);
  if (std::ssize(round.written) < images) round.written.resize(round.items.size());
  const auto written = std::span(round.written).first(round.items.size());
  captions_->write_to(
      Tensor::borrow(round.pixels.data(), {images, std::ssize(round.pixels) / images}, DType::u8),
      round.head.caption, 0, written);
  round.computed = images * model_.model().captioner()->image_tokens();
  for (const WrittenCaption& text : written)
    round.computed += round.head.caption.beam * std::ssize(text.tokens);
}

// A pass draws as many images as a rank may at once, on every rank.
void ModelEngine::compute_images() {
  Round& round = *round_;
  Communicator& world = grid_.world();
  const auto size = static_cast<std::size_t>(images_->shape().size());
  round.images.assign(round.items.size() * size, 0);
  round.drawings.clear();
  round.computed = 0;
  std::size_t token = 0;
  for (const Round::Item& item : round.items) {
    const auto tokens = static_cast<std::size_t>(item.tokens);
    round.drawings.push_back({std::span(round.tokens).subspan(token, tokens), item.seed, item.number});
    token += tokens;
    round.computed += 2 * (images_->image_tokens() + item.tokens);
  }
  const auto most = ImageSampler::kImages * static_cast<std::size_t>(world.size());
  for (std::size_t done = 0; done < round.drawings.size(); done += most) {
    const std::size_t some = std::min(most, round.drawings.size() - done);
    const std::size_t first = part(some, world.rank(), world.size()),
                      count = part(some, world.rank() + 1, world.size()) - first;
    images_->draw(std::span(round.drawings).subspan(done + first, count), round.head.sampling,
                  std::span(round.images).subspan((done + first) * size, count * size));
  }
  if (world.size() > 1) world.all_reduce(borrow(round.images, DType::u8));
}

void ModelEngine::hand_out(std::span<Job* const> jobs) {
  Round& round = *round_;
  if (round.head.experts) jobs.front()->answer.experts = round.experts;  // it is alone
  const std::size_t classes = facts_.class_names.size();
  auto score = round.scores.begin();
  auto text = round.written.begin();
  auto pixels = round.images.begin();
  for (Job* job : jobs) {
    Answer& answer = job->answer;
    switch (job->query.task) {
      case TaskKind::classify:
      case TaskKind::embed: {
        const auto features = score + static_cast<std::ptrdiff_t>(classes),
                   end = score + static_cast<std::ptrdiff_t>(round.width);
        if (job->query.task == TaskKind::classify)
          answer.probabilities.assign(score, features);
        else
          answer.embedding.assign(features, end);
        score = end;
        break;
      }
      case TaskKind::caption:
        answer.tokens.assign(text->tokens.begin(), text->tokens.end());
        answer.log_probability = text++->log_probability;
        break;
      case TaskKind::generate:
        for (Image& image : answer.images) {
          std::copy_n(pixels, image.pixels.size(), image.pixels.begin());
          pixels += std::ssize(image.pixels);
        }
        break;
    }
  }
}

// Of all ranks together. Captions are written by each of them alike.
void ModelEngine::count_experts() {
  Communicator& world = grid_.world();
  auto to = round_->experts.begin();
  for (const auto& [name, layer] : layers_) to = std::ranges::copy(layer->statistics().used, to).out;
  if (world.size() == 1) return;
  world.all_reduce(borrow(round_->experts, DType::i64));
  if (round_->head.task == TaskKind::caption)
    for (Index& rows : round_->experts) rows /= world.size();
}

}  // namespace conclave::service
