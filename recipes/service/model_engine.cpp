#include "recipes/service/model_engine.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <thread>
#include <utility>

#include "core/clock.h"
#include "recipes/models/planning.h"

namespace conclave::service {
namespace {

// A view of `values` as a tensor [values.size()].
template <class T>
Tensor borrow(std::vector<T>& values, DType dtype) {
  return Tensor::borrow(values.data(), {static_cast<Index>(values.size())}, dtype);
}

// A view of `count` values as a tensor of bytes [1, count * sizeof(T)].
template <class T>
Tensor bytes_of(T* values, std::size_t count) {
  static_assert(std::is_trivially_copyable_v<T>);
  return Tensor::borrow(values, {1, static_cast<Index>(count * sizeof(T))}, DType::u8);
}

// Where part `rank` of `count` items begins, when they are divided among `ranks` ranks.
std::size_t part(std::size_t count, int rank, int ranks) {
  return count * static_cast<std::size_t>(rank) / static_cast<std::size_t>(ranks);
}

std::string missing_task(const Recipe& recipe, TaskKind task) {
  const TaskTraits &asked = traits_of(task), &head = traits_of(asked.head);
  return fmt::format("the model has not learned to {0}{1}; train one with --set tasks.{0}=1{2}", head.name,
                     asked.trained() ? "" : fmt::format(", which {} takes its vectors from", asked.name),
                     head.captions && !recipe.data.has_images() ? ", on data that have images" : "");
}

}  // namespace

// A batch as every rank has it, and its results. The vectors keep their memory from batch to batch.
struct ModelEngine::Round {
  struct Item {
    std::int64_t tokens, pixels;  // how many the item has in the arrays below
    std::int64_t number;          // index of the image among those of its query
    std::uint64_t seed;
  };
  // The first message to the other ranks. Without items, it tells them to stop.
  struct Head {
    TaskKind task;
    bool begins;   // a new batch; else a further step of the present one
    bool experts;  // count the rows of each expert
    std::int64_t items, tokens, pixels;
    CaptionOptions caption;
    SamplerOptions sampling;
  };
  Head head{};
  std::vector<Item> items;  // one per query, or one per image to generate
  std::vector<std::int32_t> tokens;
  std::vector<std::uint8_t> pixels;

  Batch batch;
  std::vector<ImageSampler::Drawing> drawings;
  std::size_t drawn = 0;                // number of finished drawings
  bool drawing = false;                 // the sampler has begun the drawings that follow
  std::vector<float> scores;            // [items, classes + width]
  std::vector<std::uint8_t> images;     // [items, bytes of one]
  std::vector<WrittenCaption> written;  // at least [items]
  std::vector<Index> experts;           // [layers x experts]
  std::int64_t computed = 0;            // rows of all ranks together
  std::size_t width = 0;                // columns of `scores`
};

ModelEngine::ModelEngine(LoadedModel& model, const ProcessGrid& grid, const std::string& name,
                         const std::vector<std::string>& tasks, const BatchLimits& limits)
    : model_(model),
      grid_(grid),
      layers_(model.model().moe_layers()),
      at_once_(std::make_unique<Round>()),
      in_steps_(std::make_unique<Round>()) {
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
  std::array<bool, kTaskCount> can{};
  for (const TaskTraits& task : kAllTasks)
    can[static_cast<std::size_t>(task.kind)] =
        std::ranges::find(model_.model().tasks(), task.head, &Task::kind) != model_.model().tasks().end();
  facts_.tasks = can;
  if (!wanted.empty()) facts_.tasks.fill(false);
  for (const std::string& name : wanted) {
    const std::optional<TaskKind> task = task_named(name);
    require(task.has_value(), "--tasks {}: there is no such task; there are {}", name,
            fmt::join(kTaskNames, ", "));
    const auto index = static_cast<std::size_t>(*task);
    require(can[index], "--tasks {}: {}", name, missing_task(model_.recipe(), *task));
    facts_.tasks[index] = true;
  }
  for (const TaskTraits& task : kAllTasks) {
    if (!facts_.can(task.kind)) continue;
    switch (task.kind) {
      case TaskKind::classify:
      case TaskKind::embed:
        if (!predictor_) predictor_.emplace(model_, grid_);
        break;
      case TaskKind::caption:
        captions_.emplace(model_, grid_);
        break;
      case TaskKind::generate:
        images_.emplace(model_, grid_);
        break;
    }
  }
}

// Plans the memory of the forward passes, then runs the largest possible batch of each task once, so that all
// other buffers have their final size, too.
void ModelEngine::plan(const BatchLimits& limits) {
  const ModelSizes& sizes = model_.model().sizes();
  for (int rank = 1; rank < grid_.world().size(); ++rank) others_.push_back({rank, 0, 1});
  for (Round* round : {at_once_.get(), in_steps_.get()})
    round->experts.resize(layers_.size() * static_cast<std::size_t>(facts_.experts));
  const Index image_bytes = sizes.image.size(), image = predictor_ ? predictor_->image_tokens() : 0,
              rows = std::max(limits.rows, sizes.max_length + image);
  std::vector<std::function<void()>> passes;
  if (captions_) passes.emplace_back([&] { captions_->plan(image_bytes); });
  if (images_) passes.emplace_back([&] { images_->plan(sizes.max_length); });
  if (predictor_) passes.emplace_back([&] { planned_ = predictor_->plan(limits.jobs, rows); });
  plan_passes(layers_, grid_.world(), passes);

  const std::vector<std::uint8_t> pixels(static_cast<std::size_t>(image_bytes));
  Query query{.tokens = std::vector<std::int32_t>(static_cast<std::size_t>(sizes.max_length))},
      drawing = query;
  drawing.task = TaskKind::generate, drawing.sampling.steps = 1;
  if (predictor_) {
    query.tokens.resize(facts_.texts ? query.tokens.size() : 0);
    if (image > 0) query.pixels = pixels;
    warm(query, std::clamp<Index>(rows / (std::ssize(query.tokens) + image), 1, limits.jobs));
  }
  if (captions_) warm({.task = TaskKind::caption, .pixels = pixels}, limits.jobs);
  if (images_) warm(drawing, std::max<Index>(limits.jobs, ImageSampler::kImages * grid_.world().size()));
}

void ModelEngine::warm(const Query& query, Index count) {
  Job job(query);
  Round& round = begin_round(std::vector<Job*>(static_cast<std::size_t>(count), &job));
  while (compute_step(round)) {
  }
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
  if (query.experts) answer.experts.resize(at_once_->experts.size());
  switch (query.task) {
    case TaskKind::classify:
    case TaskKind::embed:
      answer.probabilities.reserve(facts_.class_names.size());
      answer.embedding.reserve(static_cast<std::size_t>(predictor_->features()));
      job.rows = job.cost = tokens + (query.pixels.empty() ? 0 : predictor_->image_tokens());
      break;
    case TaskKind::caption: {
      const CaptionOptions& options = query.caption;
      const Index most = options.max_tokens > 0 ? options.max_tokens : model_.recipe().data.max_length;
      answer.tokens.reserve(static_cast<std::size_t>(most));
      job.rows = job.cost = model_.model().captioner()->image_tokens() + options.beam * most;
      break;
    }
    case TaskKind::generate:
      answer.images.assign(
          static_cast<std::size_t>(query.count),
          {images_->shape(), std::vector<std::uint8_t>(static_cast<std::size_t>(images_->shape().size()))});
      job.rows = 2 * query.count * (images_->image_tokens() + tokens);
      job.cost = job.rows * query.sampling.steps / (query.sampling.guidance == 1 ? 2 : 1);
      break;
  }
}

void ModelEngine::finish(Job& job) const {
  switch (job.query.task) {
    case TaskKind::classify:
    case TaskKind::embed:
    case TaskKind::generate:
      break;
    case TaskKind::caption:
      job.answer.caption = model_.tokenizer()->decode(job.answer.tokens);
      break;
  }
}

void ModelEngine::step(EngineBatch& batch) {
  const double start = now();
  const bool begins = !std::exchange(batch.under_way, false);
  Round& round = begins ? begin_round(batch.jobs) : round_of(batch.jobs.front()->query.task);
  share_round(round);
  const bool goes_on = compute_step(round);
  EngineWork& work = batch.work;
  if (!goes_on) {
    hand_out(round, batch.jobs);
    work.rows = round.computed;
  }
  for (const auto& [name, layer] : layers_) {
    work.routing_seconds += layer->statistics().routing_seconds;
    if (RouteCache* cache = layer->route_cache()) {
      work.cache_hits += cache->statistics().hits;
      work.cache_misses += cache->statistics().misses;
      cache->reset_statistics();
    }
  }
  work.seconds += now() - start;
  batch.under_way = goes_on;
}

ModelEngine::Round& ModelEngine::begin_round(std::span<Job* const> jobs) {
  const Query none, &first = jobs.empty() ? none : jobs.front()->query;
  Round& round = round_of(first.task);
  round.items.clear(), round.tokens.clear(), round.pixels.clear();
  for (const Job* job : jobs) {
    const Query& query = job->query;
    const Index images = traits_of(query.task).draws ? query.count : 1;
    for (Index image = 0; image < images; ++image) {
      round.items.push_back({std::ssize(query.tokens), std::ssize(query.pixels), image, query.sampling.seed});
      round.tokens.insert(round.tokens.end(), query.tokens.begin(), query.tokens.end());
      round.pixels.insert(round.pixels.end(), query.pixels.begin(), query.pixels.end());
    }
  }
  round.head = {.task = first.task,
                .begins = true,
                .experts = first.experts,
                .items = std::ssize(round.items),
                .tokens = std::ssize(round.tokens),
                .pixels = std::ssize(round.pixels),
                .caption = first.caption,
                .sampling = first.sampling};
  return round;
}

// Rank 0 sends the batch whose next step is to be computed; the other ranks wait for it and receive it.
ModelEngine::Round& ModelEngine::share_round(const Round& mine) {
  Communicator& world = grid_.world();
  Round::Head told = mine.head;
  if (world.size() == 1) return round_of(told.task);
  const Tensor head = bytes_of(&told, 1);
  if (world.rank() == 0) {
    world.start_exchange(head, others_, head, {}).wait();
  } else {
    const std::array<PeerRows, 1> first{{{0, 0, 1}}};
    Request request = world.start_exchange(head, {}, head, first);
    // A blocking wait of MPI would keep a core busy. This loop polls for one millisecond, for batches that
    // follow quickly, and then sleeps for at most a millisecond at a time.
    for (const double began = now(); !request.test();)
      if (const double idle = now() - began; idle > 1e-3)
        std::this_thread::sleep_for(std::chrono::duration<double>(std::clamp(idle / 20, 1e-4, 1e-3)));
  }
  Round& round = round_of(told.task);
  round.head = told;
  if (!told.begins) return round;
  round.items.resize(static_cast<std::size_t>(told.items));
  round.tokens.resize(static_cast<std::size_t>(told.tokens));
  round.pixels.resize(static_cast<std::size_t>(told.pixels));
  for (const Tensor& part :
       {bytes_of(round.items.data(), round.items.size()), bytes_of(round.tokens.data(), round.tokens.size()),
        bytes_of(round.pixels.data(), round.pixels.size())})
    if (part.numel() > 0) world.broadcast(part, 0);
  return round;
}

void ModelEngine::follow() {
  for (;;) {
    Round& round = share_round(*at_once_);
    if (round.items.empty()) return;
    compute_step(round);
  }
}

ModelEngine::~ModelEngine() {
  if (grid_.world().rank() != 0 || std::uncaught_exceptions() > 0) return;
  share_round(begin_round({}));
}

// Returns false after the last step of the batch.
bool ModelEngine::compute_step(Round& round) {
  for (const auto& [name, layer] : layers_) layer->reset_statistics();
  bool goes_on = false, everywhere = false;  // everywhere: every rank computes the whole batch
  switch (round.head.task) {
    case TaskKind::classify:
    case TaskKind::embed:
      compute_scores(round);
      break;
    case TaskKind::caption:
      goes_on = compute_captions(round);
      everywhere = true;
      break;
    case TaskKind::generate:
      goes_on = compute_images(round);
      break;
  }
  if (round.head.experts) count_experts(round, !goes_on, everywhere);
  round.head.begins = false;
  return goes_on;
}

// Each rank computes a contiguous range of the sequences and has zeros for the rest; an all-reduce adds them
// up.
void ModelEngine::compute_scores(Round& round) {
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

bool ModelEngine::compute_captions(Round& round) {
  const auto images = std::ssize(round.items);
  if (std::ssize(round.written) < images) round.written.resize(round.items.size());
  const auto written = std::span(round.written).first(round.items.size());
  if (round.head.begins)
    captions_->begin(
        Tensor::borrow(round.pixels.data(), {images, std::ssize(round.pixels) / images}, DType::u8),
        round.head.caption, 0, written);
  if (captions_->step()) return true;
  round.computed = images * model_.model().captioner()->image_tokens();
  for (const WrittenCaption& text : written)
    round.computed += round.head.caption.beam * std::ssize(text.tokens);
  return false;
}

// Every rank draws at most ImageSampler::kImages images at a time.
bool ModelEngine::compute_images(Round& round) {
  Communicator& world = grid_.world();
  const auto size = static_cast<std::size_t>(images_->shape().size());
  if (round.head.begins) {
    round.images.assign(round.items.size() * size, 0);
    round.drawings.clear();
    round.drawn = 0, round.drawing = false;
    round.computed = 0;
    std::size_t token = 0;
    for (const Round::Item& item : round.items) {
      const auto tokens = static_cast<std::size_t>(item.tokens);
      round.drawings.push_back({std::span(round.tokens).subspan(token, tokens), item.seed, item.number});
      token += tokens;
      round.computed += 2 * (images_->image_tokens() + item.tokens);
    }
  }
  const auto most = ImageSampler::kImages * static_cast<std::size_t>(world.size());
  const std::size_t some = std::min(most, round.drawings.size() - round.drawn);
  if (!round.drawing) {
    const std::size_t first = part(some, world.rank(), world.size()),
                      count = part(some, world.rank() + 1, world.size()) - first;
    images_->begin(std::span(round.drawings).subspan(round.drawn + first, count), round.head.sampling,
                   std::span(round.images).subspan((round.drawn + first) * size, count * size));
  }
  round.drawing = images_->step();
  if (round.drawing) return true;
  round.drawn += some;
  if (round.drawn < round.drawings.size()) return true;
  if (world.size() > 1) world.all_reduce(borrow(round.images, DType::u8));
  return false;
}

void ModelEngine::hand_out(const Round& round, std::span<Job* const> jobs) {
  if (round.head.experts) jobs.front()->answer.experts = round.experts;  // such a job is alone in its batch
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

// Adds the rows of this step; after the last step, sums over all ranks. If every rank computes the whole
// batch (`everywhere`), the sum counts each row once per rank.
void ModelEngine::count_experts(Round& round, bool done, bool everywhere) {
  Communicator& world = grid_.world();
  if (round.head.begins) std::ranges::fill(round.experts, 0);
  auto to = round.experts.begin();
  for (const auto& [name, layer] : layers_)
    for (const Index rows : layer->statistics().used) *to++ += rows;
  if (!done || world.size() == 1) return;
  world.all_reduce(borrow(round.experts, DType::i64));
  if (everywhere)
    for (Index& rows : round.experts) rows /= world.size();
}

}  // namespace conclave::service
