#include "data/dynamic_batcher.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

namespace conclave {
namespace {

// Measured padding of WordNet's nouns at 8192 tokens (142 batches per epoch): 7% with windows of 32 batches,
// 1.6% with a single window. Wide windows cost little randomness: most sequences share their length with
// several batches' worth of other sequences, and the shuffle mixes those.
constexpr std::int64_t kBatchesPerWindow = 256;

// RandomStream::tensor for the two shuffles; RandomStream::step is the epoch.
constexpr std::uint32_t kSequenceStream = 0xDA7A0001, kBatchStream = 0xDA7A0002;

std::int64_t ceil_divide(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Fisher-Yates shuffle.
void shuffle(std::vector<std::uint32_t>& values, const RandomStream& stream) {
  for (std::size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[stream.below(i, i)]);
}

}  // namespace

void Batch::clear() {
  tokens.clear();
  positions.clear();
  text_offsets.assign(1, 0);
  offsets.assign(1, 0);
  labels.clear();
  in_domain.clear();
  examples.clear();
  images.clear();
  image_sequences.clear();
  first_token = first_sequence = global_tokens = global_sequences = global_images = 0;
  next = {};
}

std::span<std::uint8_t> Batch::add(std::span<const std::int32_t> text, std::int32_t label,
                                   std::int64_t image_tokens, std::size_t image_bytes) {
  tokens.insert(tokens.end(), text.begin(), text.end());
  for (std::size_t i = 0; i < text.size(); ++i) positions.push_back(static_cast<std::int32_t>(i));
  text_offsets.push_back(static_cast<std::int32_t>(tokens.size()));
  if (image_bytes > 0) image_sequences.push_back(static_cast<std::int32_t>(labels.size()));
  offsets.push_back(offsets.back() + static_cast<std::int32_t>(static_cast<std::int64_t>(text.size()) +
                                                               (image_bytes > 0 ? image_tokens : 0)));
  labels.push_back(label);
  const std::size_t before = images.size();
  images.resize(before + image_bytes);
  return std::span(images).subspan(before);
}

DynamicBatcher::DynamicBatcher(const TokenizedSplit& split, const BatcherOptions& options)
    : split_(&split), options_(options) {
  require(options.ranks >= 1 && options.rank >= 0 && options.rank < options.ranks,
          "DynamicBatcher: rank {} of {} ranks does not exist", options.rank, options.ranks);
  require(options.tokens >= 1 && options.tokens <= std::numeric_limits<std::int32_t>::max(),
          "DynamicBatcher: a budget of {} tokens is not in [1, 2147483647]", options.tokens);
  require(split.size() < std::numeric_limits<std::uint32_t>::max(),
          "DynamicBatcher: {} sequences are too many", split.size());
  if (options.augmentation && split.images.size() > 0)
    augmentation_.emplace(split.images.shape, *options.augmentation);
  std::vector<std::int32_t> lengths;
  lengths.reserve(split.labels.size());
  all_both_ = split.images.size() > 0 && split.size() > 0;
  for (std::int64_t i = 0; i < split.size(); ++i) {
    const std::int64_t tokens = length(i);
    require(tokens >= 1, "DynamicBatcher: sequence {} has no tokens", i);
    require(tokens <= options.tokens,
            "DynamicBatcher: sequence {} has {} tokens, more than the budget of {} per batch; raise the "
            "budget or "
            "lower max_length",
            i, tokens, options.tokens);
    lengths.push_back(static_cast<std::int32_t>(tokens));
    total_ += tokens;
    longest_ = std::max(longest_, tokens);
    longest_text_ = std::max(longest_text_, split.length(i));
    all_both_ = all_both_ && has_image(i) && split.length(i) > 0;
  }
  if (lengths.empty()) return;
  // A batch is closed by the sequence that brings it to its part of the tokens, so the part must leave room
  // for the longest sequence. Every batch has at least one sequence.
  batches_ = std::min(split.size(), ceil_divide(total_, options.tokens - longest_ + 1));
  global_tokens_ = std::min({options.tokens, total_, ceil_divide(total_, batches_) + longest_ - 1});
  share_tokens_ = std::min(global_tokens_, ceil_divide(global_tokens_, options.ranks) + longest_ - 1);
  std::sort(lengths.begin(), lengths.end());
  std::int64_t sum = 0;
  for (const std::int32_t length : lengths) {
    sum += length;
    if (sum > global_tokens_) break;
    ++global_sequences_;
    if (sum <= share_tokens_) shortest_.push_back(length);
  }
}

void DynamicBatcher::order_sequences(const RandomStream& stream, Plan& plan) const {
  const auto count = split_->labels.size();
  plan.shuffled.resize(count);
  plan.keys.resize(count);
  plan.order.resize(count);
  std::iota(plan.shuffled.begin(), plan.shuffled.end(), 0u);
  if (options_.shuffle) shuffle(plan.shuffled, stream);
  const std::size_t window =
      options_.shuffle ? static_cast<std::size_t>(ceil_divide(split_->size() * kBatchesPerWindow, batches_))
                       : count;
  bool upwards = true;
  for (std::size_t begin = 0; begin < count; begin += window, upwards = !upwards) {
    const std::size_t end = std::min(begin + window, count);
    for (std::size_t i = begin; i < end; ++i)
      plan.keys[i] = static_cast<std::uint64_t>(length(plan.shuffled[i])) << 32 | i;
    std::sort(plan.keys.data() + begin, plan.keys.data() + end);
    if (!upwards) std::reverse(plan.keys.data() + begin, plan.keys.data() + end);
    for (std::size_t i = begin; i < end; ++i) plan.order[i] = plan.shuffled[plan.keys[i] & 0xFFFFFFFFu];
  }
}

// A batch takes sequences until it holds its part, remaining tokens / remaining batches. The part never grows
// and is at most budget - longest + 1, so no batch exceeds the budget and the last batch takes all that
// remains.
void DynamicBatcher::cut(Plan& plan) const {
  plan.first.resize(static_cast<std::size_t>(batches_) + 1);
  std::int64_t left = total_, at = 0;
  for (std::int64_t b = 0; b < batches_; ++b) {
    plan.first[static_cast<std::size_t>(b)] = at;
    const std::int64_t batches_left = batches_ - b, part = ceil_divide(left, batches_left);
    std::int64_t tokens = 0;
    while (tokens < part && (tokens == 0 || split_->size() - at >= batches_left))
      tokens += length(plan.order[static_cast<std::size_t>(at++)]);
    left -= tokens;
  }
  plan.first.back() = at;
}

void DynamicBatcher::build(std::int64_t epoch, Plan& plan) const {
  const auto step = static_cast<std::uint32_t>(options_.shuffle ? epoch : 0);
  order_sequences({options_.seed, step, kSequenceStream}, plan);
  cut(plan);
  plan.batches.resize(static_cast<std::size_t>(batches_));
  std::iota(plan.batches.begin(), plan.batches.end(), 0u);
  if (options_.shuffle) shuffle(plan.batches, {options_.seed, step, kBatchStream});
  plan.epoch = epoch;
}

bool DynamicBatcher::has_image(std::int64_t sequence) const { return !split_->images.of(sequence).empty(); }

std::int64_t DynamicBatcher::length(std::int64_t sequence) const {
  return split_->length(sequence) + (has_image(sequence) ? options_.image_tokens : 0);
}

void DynamicBatcher::reserve(Batch& batch) const {
  const auto tokens = static_cast<std::size_t>(share_tokens_), sequences = shortest_.size() + 1;
  batch.tokens.reserve(tokens);
  batch.positions.reserve(tokens);
  batch.text_offsets.reserve(sequences + 1);
  batch.offsets.reserve(sequences + 1);
  batch.labels.reserve(sequences);
  batch.in_domain.reserve(sequences);
  batch.examples.reserve(sequences);
  if (split_->images.size() == 0) return;
  batch.images.reserve(sequences * static_cast<std::size_t>(split_->images.shape.size()));
  batch.image_sequences.reserve(sequences);
}

void DynamicBatcher::start(Batch& batch) const {
  reserve(batch);
  batch.clear();
}

void DynamicBatcher::append(std::int64_t sequence, std::uint64_t seed, std::int64_t epoch,
                            Batch& batch) const {
  const auto image = split_->images.of(sequence);
  const auto changed =
      batch.add(split_->sequence(sequence), split_->labels[static_cast<std::size_t>(sequence)],
                options_.image_tokens, image.size());
  if (augmentation_ && !image.empty())
    augmentation_->apply(seed, epoch, sequence, image, changed);
  else
    std::ranges::copy(image, changed.begin());
  batch.in_domain.push_back(
      split_->in_domain.empty() ? 0 : split_->in_domain[static_cast<std::size_t>(sequence)]);
  batch.examples.push_back(sequence);
}

void DynamicBatcher::fill(DataPosition position, Batch& batch) {
  require(batches_ > 0, "DynamicBatcher::fill: the split has no sequences");
  require(position.epoch >= 0 && position.batch >= 0 && position.batch <= batches_,
          "DynamicBatcher::fill: epoch {} batch {} does not exist, an epoch has {} batches; was the "
          "checkpoint made "
          "with other data or another token budget?",
          position.epoch, position.batch, batches_);
  if (position.batch == batches_) position = {position.epoch + 1, 0};
  if (plan_.epoch < 0 || (options_.shuffle && plan_.epoch != position.epoch)) build(position.epoch, plan_);

  start(batch);
  const auto number = plan_.batches[static_cast<std::size_t>(position.batch)];
  const std::int64_t begin = plan_.first[number], end = plan_.first[number + 1];
  for (std::int64_t i = begin; i < end; ++i) {
    const std::int64_t sequence = plan_.order[static_cast<std::size_t>(i)];
    batch.global_tokens += length(sequence);
    if (has_image(sequence)) ++batch.global_images;
  }
  batch.global_sequences = end - begin;
  batch.first_token = -1;
  std::int64_t token = 0;
  for (std::int64_t i = begin; i < end; ++i) {
    const std::int64_t sequence = plan_.order[static_cast<std::size_t>(i)], scaled = token * options_.ranks;
    if (scaled >= (options_.rank + 1) * batch.global_tokens) break;
    if (scaled >= options_.rank * batch.global_tokens) {
      if (batch.labels.empty()) batch.first_token = token;
      append(sequence, options_.seed, position.epoch, batch);
    } else {
      ++batch.first_sequence;
    }
    token += length(sequence);
  }
  if (batch.labels.empty()) batch.first_token = token;
  const bool last = position.batch + 1 == batches_;
  batch.next = last ? DataPosition{position.epoch + 1, 0} : DataPosition{position.epoch, position.batch + 1};
}

std::size_t DynamicBatcher::fill_with(std::span<const std::int64_t> sequences, std::uint64_t seed,
                                      std::int64_t epoch, Batch& batch) const {
  start(batch);
  for (const std::int64_t sequence : sequences) {
    if (batch.local_tokens() + length(sequence) > share_tokens_) break;
    append(sequence, seed, epoch, batch);
  }
  batch.global_tokens = batch.local_tokens();
  batch.global_sequences = batch.local_sequences();
  batch.global_images = batch.local_images();
  return batch.labels.size();
}

void DynamicBatcher::append_made_up(std::int64_t length, Batch& batch) const {
  const bool image = split_->images.size() > 0 && length >= options_.image_tokens;
  const std::int64_t text = std::min(length - (image ? options_.image_tokens : 0), longest_text_);
  batch.examples.push_back(batch.local_sequences() % split_->size());
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(text));
  for (std::size_t i = 0; i < tokens.size() && !split_->tokens.empty(); ++i)
    tokens[i] = split_->tokens[(batch.tokens.size() + i) % split_->tokens.size()];
  batch.add(tokens, 0, options_.image_tokens,
            image ? static_cast<std::size_t>(split_->images.shape.size()) : 0);
  batch.in_domain.push_back(0);
}

std::span<const DynamicBatcher::Most> DynamicBatcher::extremes() const {
  static constexpr Most kAll[] = {Most::sequences, Most::text, Most::images};
  return std::span(kAll).first(all_both_ ? 2 : split_->images.size() > 0 ? 3 : 1);
}

void DynamicBatcher::fill_largest(Batch& batch, Most most) const {
  start(batch);
  const auto fits = [&](std::int64_t length) {
    return batch.local_tokens() + length <= share_tokens_ &&
           batch.local_sequences() < static_cast<std::int64_t>(shortest_.size());
  };
  switch (most) {
    case Most::sequences:
      for (const std::int32_t length : shortest_) append_made_up(length, batch);
      break;
    case Most::images:
      while (fits(options_.image_tokens)) append_made_up(options_.image_tokens, batch);
      break;
    case Most::text:
      while (fits(longest_)) append_made_up(longest_, batch);
      break;
  }
  // Use up the remaining tokens of the share, if the split has texts that could fill them.
  while (batch.local_tokens() < share_tokens_ && longest_text_ > 0 &&
         batch.local_sequences() <= static_cast<std::int64_t>(shortest_.size()))
    append_made_up(std::max(std::min(share_tokens_ - batch.local_tokens(), longest_),
                            all_both_ ? std::int64_t{shortest_.front()} : 1),
                   batch);
  batch.global_tokens = std::max(global_tokens_, batch.local_tokens());
  batch.global_sequences = std::max(global_sequences_, batch.local_sequences());
  batch.global_images = split_->images.size() > 0 ? batch.global_sequences : 0;
}

double DynamicBatcher::padding() const {
  if (batches_ == 0) return 0;
  Plan plan;
  build(0, plan);
  std::int64_t rectangles = 0;
  for (std::size_t b = 0; b + 1 < plan.first.size(); ++b) {
    std::int64_t longest = 0;
    for (std::int64_t i = plan.first[b]; i < plan.first[b + 1]; ++i)
      longest = std::max(longest, length(plan.order[static_cast<std::size_t>(i)]));
    rectangles += longest * (plan.first[b + 1] - plan.first[b]);
  }
  return 1.0 - static_cast<double>(total_) / static_cast<double>(rectangles);
}

}  // namespace conclave
